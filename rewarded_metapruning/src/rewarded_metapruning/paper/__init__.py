"""Tables and figures of the README, and the comparison behind them; not part of the wheel."""
