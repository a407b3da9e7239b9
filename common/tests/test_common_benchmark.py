"""Benchmark files and tables."""

from itertools import pairwise

from common.reporting.benchmark import (
    BenchmarkValue,
    run_benchmark,
    speed_table,
    speedup,
    time_interleaved,
    write_benchmark,
)


def test_value_is_reached_on_correct_side_of_bound():
    assert BenchmarkValue("a", "b", 1.2, 1.1).reached and not BenchmarkValue("a", "b", 1.0, 1.1).reached
    assert (
        BenchmarkValue("a", "b", 1.0, 1.1, at_most=True).reached
        and not BenchmarkValue("a", "b", 1.2, 1.1, at_most=True).reached
    )


def test_written_file_appears_in_table(tmp_path):
    assert speed_table(tmp_path) == "Not measured yet."
    write_benchmark(
        tmp_path / "speed-x.json", "python x.py", "ms", {"a": [1, 3, 2]}, [BenchmarkValue("x", "y", 12.34, 10)]
    )
    table = speed_table(tmp_path)
    assert "| x | y | 12.3x | at least 10x | `python x.py` |" in table


def test_absolute_value_and_percentage_have_units(tmp_path):
    time = BenchmarkValue("encoding: time", "", 15.69, 60, at_most=True, unit=" s")
    percentage = BenchmarkValue("saving", "dense", 0.9217, 0.85, unit="%")
    write_benchmark(tmp_path / "speed-x.json", "python x.py", "ms", {}, [time, percentage])
    assert "| encoding: time |  | 15.7 s | at most 60 s |" in speed_table(tmp_path)
    assert "| saving | dense | 92.2 % | at least 85 % |" in speed_table(tmp_path)


def test_every_side_is_timed_in_every_round(capsys, tmp_path):
    calls = []
    series = time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert list(series) == ["a", "b"] and all(len(values) == 3 and min(values) > 0 for values in series.values())
    changes = sum(before != after for before, after in pairwise(calls))
    assert changes >= 3  # in turns, not one side after the other
    assert speedup({"a": [1.0, 2.0, 9.0], "b": [4.0, 6.0, 5.0]}, "a", "b") == 2.5

    def body(repeats):
        """Measure something."""
        return {"a": [1.0] * repeats}, [BenchmarkValue("x", "y", 2.0, 3.0)]

    assert run_benchmark(body, ["--repeats", "3", "--json", str(tmp_path / "speed-x.json")]) == 0
    assert "x, compared with y: 2x (target: at least 3x): NOT REACHED" in capsys.readouterr().out
    assert "| x | y | 2x | at least 3x |" in speed_table(tmp_path)
    assert run_benchmark(body, ["--repeats", "0"]) == 2
