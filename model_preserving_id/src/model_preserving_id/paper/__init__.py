"""The README's tables and figures, and the experiments behind them; not part of the wheel."""
