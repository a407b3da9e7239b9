"""The helpers that check an original README's promises accept kept promises and report broken ones."""

from pathlib import Path

import pytest

from common.reporting.published import PublishedRow, PublishedTable
from common.testing import original_readme
from common.testing.original_readme import (
    check_commands,
    check_files,
    check_names,
    check_options,
    check_rows,
    numbers_in,
    published_records,
    read_promises,
    row_numbers,
)

SCRIPT = """
import sys
from pathlib import Path
NAME = 1
if __name__ == "__main__":
    if "-h" in sys.argv:
        print("--epochs EPOCHS  --batch-size N")
    elif "--fail" in sys.argv:
        sys.exit(3)
    else:
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(" ".join(sys.argv[1:]))
        print("ran")
"""
TABLE = PublishedTable(
    "ResNet-56", "resnet56", "cifar10", "original code", 93.45, (PublishedRow(0.75, 93.18, 32.82, 12.85),)
)


def promises(folder: Path, *lines: str) -> tuple[original_readme.Promise, ...]:
    (folder / "original_readme.txt").write_text("# a comment\n\n" + "\n".join(lines) + "\n")
    return read_promises(folder / "test_of_a_paper.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a package with one script."""
    home = tmp_path / "paper"
    home.mkdir()
    (home / "run.py").write_text(SCRIPT)
    monkeypatch.setattr(original_readme, "source_folder", lambda package: home / "src" / package)
    return home


def test_promises_are_read_by_kind_and_continued(tmp_path: Path) -> None:
    read = promises(tmp_path, "file: a: b", "command: python run.py \\", "    --epochs 3", "row: x | 1 |")
    assert [(p.kind, p.text, p.line) for p in read] == [
        ("file", "a: b", 3),
        ("command", "python run.py \\\n    --epochs 3", 4),
        ("row", "x | 1 |", 6),
    ]
    with pytest.raises(AssertionError, match="line 3: expected one of command, "):
        promises(tmp_path, "promise: something")
    with pytest.raises(AssertionError, match="no promises"):
        promises(tmp_path)


def test_missing_kind_raises(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no line begins with 'row'"):
        check_rows(promises(tmp_path, "file: run.py"), [])


def test_files_options_and_names_of_scripts_are_checked(home: Path) -> None:
    check_files(promises(home, "file: run.py"), "paper")
    check_options(promises(home, "option: run.py --epochs", "option: run.py --batch-size"), "paper")
    check_names(promises(home, "name: run.NAME"), "paper")
    with pytest.raises(AssertionError, match=r"walk\.py"):
        check_files(promises(home, "file: run.py", "file: walk.py"), "paper")
    with pytest.raises(AssertionError, match="--batch"):
        check_options(promises(home, "option: run.py --batch"), "paper")
    with pytest.raises(AssertionError, match=r"run\.OTHER"):
        check_names(promises(home, "name: run.OTHER"), "paper")


def test_commands_run_verbatim_with_appended_options(home: Path) -> None:
    """A pipe, a placeholder and a line break as in a README; the appended option is before the pipe."""
    kept = promises(
        home, "command: python run.py \\", "  --out '<place>' | tee run.log", "produces: *.txt", "produces: run.log"
    )
    check_commands(kept, home, small={"run.py": "--epochs 1", "": "--unused"}, fill={"<place>": "a file.txt"})
    assert (home / "a file.txt").read_text() == "--out a file.txt --epochs 1"
    assert (home / "run.log").read_text() == "ran\n"


def test_failing_command_and_missing_file_raise(home: Path) -> None:
    with pytest.raises(AssertionError, match="exit status 3"):
        check_commands(promises(home, "command: python run.py --fail | tee run.log"), home)
    with pytest.raises(AssertionError, match=r"other\.txt"):
        check_commands(promises(home, "command: python run.py --out a.txt", "produces: other.txt"), home)


def test_rows_must_be_in_one_published_record(tmp_path: Path) -> None:
    """The drop of top-1 is derived; numbers of different rows do not add up to a row."""
    records = list(published_records([TABLE]))
    check_rows(promises(tmp_path, "row: ResNet-56 | 0.75 | 93.18% | 0.27% | 32.82% | 12.85%"), records)
    check_rows(promises(tmp_path, "row: baseline | 93.45% | 0% |"), records)
    for wrong in ("x | 0.7 | 93.18%", "x | 0.75 | 93.45%", "x | 12.84%"):
        with pytest.raises(AssertionError, match="not in the published data"):
            check_rows(promises(tmp_path, f"row: {wrong}"), records)
    with pytest.raises(AssertionError, match="expected 'label"):
        check_rows(promises(tmp_path, "row: DECORE-50 | | |"), records)


def test_numbers_are_read_from_cells_and_nested_data() -> None:
    cells = "VGG16 | 314.29M(0.0%) | -0.05% | 1,070 KB | 40x | ResNet-56 | k=13"
    assert row_numbers(cells) == {314.29, 0.0, -0.05, 1070.0, 40.0, 13.0}
    assert set(numbers_in({"k = 4": 90.93, "fc1": ("235K", 8, None, True)})) == {4, 90.93, 235, 8}
