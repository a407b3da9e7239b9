"""Tables and figures of the README and the experiments behind them; not part of the wheel."""
