"""``compression-papers``: its subcommands, its messages, and a user's folder with files named as our packages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line_worker import find_files

from common import command_line
from common.command_line import SUBCOMMANDS
from common.executor import ProcessPool
from common.factory import import_factory

OURS = [name for name, found in SUBCOMMANDS.items() if found.module.startswith("common.")]
SCRIPT = "import sys\nfrom common.command_line import main\nif __name__ == '__main__':\n    sys.exit(main())\n"  # as pip writes


def error(words: list[str], capsys) -> str:
    assert command_line.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", OURS)
def test_subcommand_names_itself_as_typed(name: str, capsys) -> None:
    assert f"(see compression-papers {name} -h)" in error([name, "--nonsense"], capsys).replace(
        "campaign run", "campaign"
    )
    with pytest.raises(SystemExit) as end:
        command_line.main([name, "-h"])
    assert not end.value.code and f"usage: compression-papers {name} " in capsys.readouterr().out


def test_help_lists_subcommands_in_columns(capsys) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["-h"])
    out = capsys.readouterr().out
    found = [
        re.search(rf"^(    {name} +){re.escape(command.about)}$", out, re.MULTILINE)
        for name, command in SUBCOMMANDS.items()
    ]
    assert all(found) and len({len(line[1]) for line in found}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: trian: unknown subcommand; did you mean train? (see compression-papers -h)"),
        (["xyz"], "error: xyz: unknown subcommand; the subcommands are compress, "),
        ([], "error: the following arguments are required: SUBCOMMAND ... (see compression-papers -h)"),
        (["--nonsense", "train"], "error: unrecognized arguments: --nonsense"),
        (
            ["compress", "--model", "a:b"],
            "error: target: give one of --target-macs, --target-bytes and --target-latency",
        ),
        (["compress", "--target-macs", "0.5", "--target-bytes", "0.5"], "error: target: give one of --target-macs"),
        (
            ["compress", "--target-macs", "0.5", "--export", "a.pb"],
            "error: --export a.pb: unknown format; give a name that",
        ),
        (
            ["compress", "--target-macs", "50"],
            "error: argument --target-macs: 50 is not a number in [0.01, 1) (see comp",
        ),
        (
            ["compress", "--target-macs", "0.5", "--method", "best"],
            "error: method 'best' is not installed; available: ",
        ),
    ],
)
def test_invalid_words_are_one_line(words: list[str], message: str, capsys) -> None:
    assert error(words, capsys).startswith(message)


def test_subcommand_of_missing_package_says_how_to_install_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    assert error(["compare"], capsys).endswith("run pip install compression-papers-compare")


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch) -> Path:
    """The working folder: a user's, with a folder and files that have the names of our packages."""
    folder = tmp_path / "work"
    (folder / "common").mkdir(parents=True)
    for name in ("common/__init__.py", "common/train.py", "compare.py", "decore.py"):
        (folder / name).write_text("raise SystemExit('a file of the user')\n")
    (folder / "mynet.py").write_text(
        "from torch import nn\nfrom mylayers import layer\n\ndef build(num_classes=2):\n"
        "    import later\n    return nn.Sequential(layer(), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    (folder / "mylayers.py").write_text("from torch import nn\n\ndef layer():\n    return nn.Conv2d(3, 4, 32)\n")
    (folder / "later.py").write_text("")
    monkeypatch.chdir(folder)
    return folder


def test_installed_command_ignores_files_of_working_folder(crowded: Path, tmp_path: Path) -> None:
    """A script is searched for modules in its own folder; the same files hide the package from python -m."""
    script = tmp_path / "bin" / "compression-papers"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    for words in ([script, "-h"], [script, "train", "-h"]):
        run = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0 and "usage: compression-papers" in run.stdout, run.stderr
    run = subprocess.run(
        [sys.executable, "-m", "common.train"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "a file of the user" in run.stderr


def test_network_of_working_folder_hides_no_package_of_worker(crowded: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("mynet", "mylayers", "later"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert import_factory("mynet:build", 3)()[2].out_features == 3
    with ProcessPool() as pool:
        pool.start("a", find_files)
        ((_, result),) = pool.finish()
    assert result.value == [command_line.__file__, str(crowded / "later.py")]
