"""The tables of common's README, made from ``results/*.json``."""

from collections.abc import Callable
from pathlib import Path

from common.benchmark import speed_table

RESULTS = Path(__file__).resolve().parents[2] / "results"
TABLES: dict[str, Callable[[], str]] = {"common.speed": lambda: speed_table(RESULTS)}
