"""Files and tables of benchmarks; the README's table is the one that the result files give."""

from pathlib import Path

from common.benchmark import Ratio, speed_table, write_benchmark
from common.results import replace_block
from common.tables import TABLES

README = Path(__file__).resolve().parents[1] / "README.md"


def test_a_ratio_is_reached_on_its_side_of_the_bound():
    assert Ratio("a", "b", 1.2, 1.1).reached and not Ratio("a", "b", 1.0, 1.1).reached
    assert Ratio("a", "b", 1.0, 1.1, at_most=True).reached and not Ratio("a", "b", 1.2, 1.1, at_most=True).reached


def test_file_and_table(tmp_path):
    assert speed_table(tmp_path) == "Not measured yet."
    write_benchmark(tmp_path / "speed-x.json", "python x.py", "ms", {"a": [1, 3, 2]}, [Ratio("x", "y", 12.34, 10)])
    table = speed_table(tmp_path)
    assert "| x | y | 12.3x | at least 10x | `python x.py` |" in table


def test_the_readme_is_up_to_date():
    assert not replace_block(README, "common.speed", TABLES["common.speed"](), check=True)
