"""The commands of a page are found, and run as printed with appended options; failures are reported."""

from pathlib import Path

import pytest

from common.testing.pages import Command, command_environment, read_commands, run_page

PAGE = """
Call `python run.py --epochs 3`, or `python
run.py --epochs 4`. `run.py` and `pip install x` are no commands, nor are these patterns: `python run.py ...`,
`python run.py --out FILE`, `bash <name>.sh`, `torchrun --nproc-per-node N run.py`.

```bash
python run.py --epochs 3 \\
    | tee run.log     # FILE
```

- in a list:

  ```python
  print(value)
  ```

| command | time |
| --- | --- |
| `python run.py --rule std\\|density` | 1 s |
| `python run.py`, `python -m json.tool`, `compression-papers train`, `python run.py` | 1 s |

```text
python other.py
```
"""


def test_commands_are_fenced_blocks_and_complete_inline_code(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert read_commands(tmp_path / "page.md") == [
        Command("bash", "python run.py --epochs 3"),
        Command("bash", "python run.py --epochs 4"),
        Command("bash", "python run.py --epochs 3 \\\n    | tee run.log     # FILE\n"),
        Command("python", "print(value)\n"),
        Command("bash", "python run.py --rule std|density"),
        Command("bash", "python run.py", is_name=True),
        Command("bash", "python -m json.tool", is_name=True),
        Command("bash", "compression-papers train", is_name=True),
    ]


def test_placeholder_with_a_value_makes_a_command(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("`python run.py --penalty LAMBDA --out FILE` `python run.py --penalty LAMBDA`")
    assert read_commands(tmp_path / "page.md", {"LAMBDA": "50"}) == [Command("bash", "python run.py --penalty 50")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    (folder / "inner").mkdir(parents=True)
    (folder / "run.py").write_text("import sys; open('calls', 'a').write(' '.join(sys.argv[1:]) + ';')")
    (folder / "inner" / "here.py").write_text((folder / "run.py").read_text())
    return folder


def test_commands_run_with_options_names_with_help_and_blocks_with_what_is_given(tmp_path: Path, folder: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`python run.py --epochs 3` `python run.py two --x` `python run.py` `python here.py` `bash setup.sh --gpu`\n"
        "```python\nopen('value', 'w').write(value)\n```\n"
    )
    small = {"run.py": "--small", "run.py two": "--two", "here.py": "--small"}
    options = {"complete": ["here.py"], "places": {"here.py": "inner"}, "given": "value = 'given'\n"}
    assert run_page(page, folder, small, ["setup.sh"], **options) == 5
    assert (folder / "calls").read_text() == "--epochs 3 --small;two --x --two;-h;"
    assert (folder / "inner" / "calls").read_text() == "--small;"
    assert (folder / "value").read_text() == "given"


def test_failed_and_endless_commands_are_reported_together(tmp_path: Path, folder: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '`python -c "exit(3)"` `python run.py --ok` `bash -c "sleep 60; true"`\n```bash\nfalse | cat\n```\n'
    )
    with pytest.raises(AssertionError) as error:
        run_page(page, folder, seconds=3)
    lines = str(error.value).splitlines()
    assert [line.partition(": ")[2] for line in lines if line.startswith(str(page))] == [
        "exit status 3",
        "not finished after 3 s",
        "exit status 1",
    ]
    assert (folder / "calls").read_text() == "--ok;"


def test_page_without_commands_raises(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "page.md").write_text("text")
    with pytest.raises(AssertionError, match="no command to run"):
        run_page(tmp_path / "page.md", folder)


def test_environment_runs_one_thread(folder: Path) -> None:
    assert command_environment(folder, {})["OMP_NUM_THREADS"] == "1"
