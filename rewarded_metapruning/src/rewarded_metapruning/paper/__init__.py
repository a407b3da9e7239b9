"""The README's tables and figures, and the comparison behind them; not part of the wheel."""
