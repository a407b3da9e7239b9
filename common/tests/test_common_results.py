"""Generated blocks of README files: replacement, checks and errors."""

import sys
import types
from pathlib import Path

import pytest

from common import markdown
from common.errors import UserError
from common.reporting import results
from common.reporting.latency import LATENCY_COLUMNS, dense_latency_note, latency_cells
from common.timing import relative_text

TEXT = """# Title

before
<!-- results:speed:begin -->
old
<!-- results:speed:end -->
between
<!-- results:speed.more:begin -->
<!-- results:speed.more:end -->
after
"""


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> str:
    module = types.ModuleType("a_paper_tables")
    module.TABLES = {"speed": lambda: "fast", "speed.more": lambda: markdown.markdown_table(["a"], [[1]])}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_markdown_table_aligns_numbers_and_escapes_cells() -> None:
    table = markdown.markdown_table(["network", "top-1", "note"], [["a|b", "93.39", None], ["c\nd", "-", "1 of 2 x"]])
    assert table.splitlines() == [
        "| network | top-1 | note |",
        "| --- | ---: | ---: |",
        "| a\\|b | 93.39 |  |",
        "| c d | - | 1 of 2 x |",
    ]


def test_markdown_table_without_rows_has_header() -> None:
    assert markdown.markdown_table(["a", "b"], []) == "| a | b |\n| --- | --- |\n"


def test_markdown_table_raises_for_ragged_row() -> None:
    with pytest.raises(ValueError, match="1 cells, the header has 2"):
        markdown.markdown_table(["a", "b"], [["x"]])


def test_replace_block_changes_only_its_block(readme: Path) -> None:
    assert results.replace_block(readme, "speed", "new\n") is True
    assert readme.read_text(encoding="utf-8") == TEXT.replace("\nold\n", "\n\nnew\n\n")
    assert results.replace_block(readme, "speed", "new") is False


def test_replace_block_check_writes_nothing(readme: Path) -> None:
    assert results.replace_block(readme, "speed.more", "new", check=True) is True
    assert readme.read_text(encoding="utf-8") == TEXT


def test_replace_block_keeps_backslashes(readme: Path) -> None:
    results.replace_block(readme, "speed", r"a\1b \g<0>")
    assert r"a\1b \g<0>" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing here", "0 times, expected once"),
        (TEXT + TEXT, "2 times, expected once"),
        ("<!-- results:speed:begin -->\n", "0 times, expected once"),
        ("<!-- results:speed:end -->\n<!-- results:speed:begin -->\n", "comes before the begin marker"),
    ],
)
def test_invalid_markers_raise(readme: Path, text: str, message: str) -> None:
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        results.replace_block(readme, "speed", "new")
    assert readme.read_text(encoding="utf-8") == text


def test_command_rewrites_tables_and_check_passes(
    readme: Path, tables: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(readme), "--tables", tables]
    assert results.main([*command, "--check"]) == 2
    assert readme.read_text(encoding="utf-8") == TEXT
    assert results.main(command) == 0
    assert f"rewrote speed.more in {readme}" in capsys.readouterr().out
    assert results.main([*command, "--check"]) == 0
    assert "\n\nfast\n\n" in readme.read_text(encoding="utf-8")
    assert "| ---: |" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{readme}"], "no table for the block 'speed'"),
        (["{readme}", "--tables", "no_such_module_here"], "no_such_module_here"),
        (["{readme}", "--tables", "json"], "TABLES"),
        (["{readme}.missing", "--tables", "a_paper_tables"], "no such file"),
    ],
)
def test_command_reports_error_in_one_line(
    readme: Path, tables: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main([argument.format(readme=readme) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert readme.read_text(encoding="utf-8") == TEXT


def test_tables_command_makes_adds_draws_and_checks(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, done = {"speed": "1"}, []

    def count() -> None:
        values["speed"] = "2"

    def add(folder: str) -> Path:
        values["speed.more"] = folder
        return Path(f"{folder}.json")

    def draw() -> list[Path]:
        done.append("drawn")
        return [Path("a.png")]

    tables = {name: lambda name=name: values.get(name, "none") for name in ("speed", "speed.more")}

    def command(*words: str) -> int:
        make = {"--recount": (count, "count again")}
        return results.tables_command("decore", readme, tables, words, add=add, make=make, draw=draw)

    assert command("--check") == 2 and readme.read_text(encoding="utf-8") == TEXT and not done
    assert "speed, speed.more" in capsys.readouterr().err.replace(f" in {readme}", "")
    assert command() == 0 and done == ["drawn"] and "a.png" in capsys.readouterr().out
    assert "\n\n1\n\n" in readme.read_text(encoding="utf-8") and command("--check") == 0
    assert command("--recount", "--add", "first", "runs/second") == 0
    text = readme.read_text(encoding="utf-8")
    assert "\n\n2\n\n" in text and "\n\nruns/second\n\n" in text
    assert "first.json\nruns/second.json\n" in capsys.readouterr().out
    assert results.tables_command("decore", readme, tables, ["--add", "x"]) == 2, "no function that adds runs"


def test_tables_command_writes_and_checks_pages(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = readme.parent / "page.md"

    def command(text: str, *words: str) -> int:
        tables = {"speed": lambda: "1", "speed.more": lambda: "2"}
        return results.tables_command("decore", readme, tables, words, pages={page: lambda: text})

    assert command("a", "--check") == 2 and not page.exists() and "page.md" in capsys.readouterr().err
    assert command("a") == 0 and page.read_text(encoding="utf-8") == "a" and command("a", "--check") == 0
    assert command("b", "--check") == 2 and page.read_text(encoding="utf-8") == "a"


def test_tables_command_rewrites_tables_of_root_readme(readme: Path) -> None:
    own = readme.parent / "decore" / "README.md"
    own.parent.mkdir()
    own.write_text("", encoding="utf-8")
    assert results.tables_command("decore", own, {"speed": lambda: "new"}, ["--check"]) == 2
    assert results.tables_command("decore", own, {"speed": lambda: "new"}, []) == 0
    assert readme.read_text(encoding="utf-8") == TEXT.replace("\nold\n", "\n\nnew\n\n")


def test_padded_table_aligns_columns():
    table = markdown.pad_table(markdown.markdown_table(["name", "n"], [["a", 1], ["long name", 1000]]))
    assert table.splitlines() == [
        "| name      |    n |",
        "| --------- | ---: |",
        "| a         |    1 |",
        "| long name | 1000 |",
    ]


def test_latency_is_a_percentage_of_dense_and_slower_networks_are_called_slower():
    records = {"1": {"ratio": 1.1, "low": 1.08, "high": 1.13}, "64": {"ratio": 0.8, "low": 0.79, "high": 0.81}}
    run = {"baseline": {"latency_ms": {"1": 2.0, "64": 50.0}}, "compressed": {}, "latency": records}
    assert latency_cells(run) == ["110 ± 3 (slower)", "80 ± 1"] and len(LATENCY_COLUMNS) == 2
    assert latency_cells({"baseline": {}, "compressed": {}}) == ["", ""]
    without = {"baseline": run["baseline"], "compressed": {"latency_ms": {"1": 1.0, "64": 2.0}}}  # of older versions
    assert latency_cells(without) == ["", ""]
    note = dense_latency_note([run, without, run])
    assert (
        note == "\nDense networks take, in the order of the rows, 2.0 / 50; 2.0 / 50 ms for batches of 1 / 64 images."
    )
    assert dense_latency_note([]) == ""


def test_latency_that_says_nothing_is_not_a_number():
    within = {"ratio": 0.97, "low": 0.93, "high": 1.01}
    assert relative_text(within) == "as dense ± 4"
    assert relative_text({**within, "disturbed": "busy machine: other processes used 1.0 cores"}) == "busy machine"
    assert relative_text(None) == ""
