"""Advice to download: commands that exist, names that they have, and files where the program looks for them."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common import evaluate
from common.campaign.plan import find_weights, read_plan
from common.data import DATASETS, MemoryImages, load_dataset
from common.data.registry import LoadedDataset
from common.downloads import REMOTE_FILES, advise_weights
from common.errors import UserError
from common.fetch import Fetch
from common.options import ARCHITECTURE_NAMES, NetworkOptions
from common.settings import parse

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"`?python -m common\.fetch ((?:'[^']*'|[^`\n'&;,)\\])+)")
WEIGHTS = {name: files[0].result for name, files in REMOTE_FILES.items() if not files[0].unpack}


def advised_files(text: str) -> list[Path]:
    """Return the files that the advised commands create; every command is parsed. Raises UserError for an invalid one."""
    found = []
    for match in COMMAND.finditer(text):
        given = parse(Fetch, shlex.split(match[1]))
        found += [Path(given.to or "data") / file.result for name in given.name for file in REMOTE_FILES[name]]
    assert len(found) >= text.count("common.fetch"), text
    return found


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100"])
@pytest.mark.parametrize("arch", ARCHITECTURE_NAMES)
def test_advice_for_missing_weights_names_file_that_fetch_has(tmp_path, capsys, arch, dataset):
    """The named file is the one that the command creates; for other networks, no download is mentioned."""
    folder = tmp_path / "my weights"
    argv = ["--arch", arch, "--dataset", dataset, "--weights", str(folder / f"{arch}.pth")]
    assert evaluate.main(argv) == 2
    error = capsys.readouterr().err
    files = advised_files(error)
    if arch in WEIGHTS and dataset == "cifar10":
        assert files == [folder / WEIGHTS[arch]] and f"downloads {files[0]}" in error
    else:
        assert files == [] and "download" not in error and "fetch" not in error


@pytest.mark.parametrize("name", WEIGHTS)
def test_advice_for_published_name_creates_that_file(tmp_path, capsys, name):
    file = tmp_path / WEIGHTS[name]
    for argv in (["--arch", name], ["--model", "torch.nn:Identity"]):
        assert evaluate.main([*argv, "--weights", str(file)]) == 2
        error = capsys.readouterr().err
        assert advised_files(error) == [file] and error.startswith(f"error: {file}: no such file; download it with")


@pytest.mark.parametrize(
    "network",
    [
        {"checkpoint": "resnet20-12fca82f.th"},
        {"arch": "resnet20", "checkpoint": "resnet20.pth"},
        {"arch": "resnet20", "shortcut": "conv3x3", "weights": "resnet20.pth"},
        {"arch": "resnet20", "model": "own:network", "weights": "own.pth"},
        {"arch": "vgg16", "weights": "resnet20-12fca82f.th"},
    ],
)
def test_other_networks_are_not_advised_to_download(network, capsys):
    words = [word for name, value in network.items() for word in (f"--{name}", value)]
    assert evaluate.main([*words, "--dataset", "cifar10"]) == 2
    assert advised_files(capsys.readouterr().err) == []
    assert set(network) <= {field for field in NetworkOptions.__dataclass_fields__}


def test_advice_without_network_name_is_neutral():
    assert advise_weights("own.pth") == "give an existing file"
    assert advised_files(advise_weights("w/resnet44-014dd654.th")) == [Path("w/resnet44-014dd654.th")]


@pytest.mark.parametrize("name", DATASETS)
def test_advised_download_is_found_by_data_set(tmp_path, name):
    """After the advised command, the data set is no longer missing in its folder."""
    root = tmp_path / "my data"
    if name == "digits":
        return
    with pytest.raises(UserError) as caught:
        load_dataset(name, root)
    files = advised_files(str(caught.value))
    assert bool(files) == (name in REMOTE_FILES)
    for file, remote in zip(files, REMOTE_FILES.get(name, ()), strict=True):
        assert file == root / remote.result
        for part in [file / inner for inner in remote.contents] or [file]:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"") if part.suffix or not remote.contents or part.name != "images" else part.mkdir()
    if files:
        with pytest.raises(UserError) as caught:
            load_dataset(name, root)
        assert "not in" not in str(caught.value), caught.value


@pytest.mark.parametrize(("name", "remedy"), [("digits", "add images"), ("mnist", "fetch the data set again")])
def test_empty_data_set_is_advised_to_be_fetched_if_it_can_be(monkeypatch, name, remedy):
    nothing = MemoryImages(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    empty = replace(DATASETS[name], load=lambda root: LoadedDataset(nothing, nothing, []))
    monkeypatch.setitem(DATASETS, name, empty)
    with pytest.raises(UserError, match=f"{name}: no training images; {remedy}"):
        load_dataset(name)


@pytest.mark.parametrize("arch", ["resnet32", "resnet44", "lenet5", "resnet44-conv3x3"])
def test_plan_without_weights_advises_file_that_it_finds(tmp_path, monkeypatch, arch):
    monkeypatch.delenv("WEIGHTS", raising=False)
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[[job]]\nname = "a"\nrun = "python x.py {{weights:{arch}}} --out {{out}}"\n')
    (job,) = [job for job in read_plan(plan) if job.name == "a"]
    files = advised_files(job.problem or "")
    assert len(files) == (arch in WEIGHTS)
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        assert find_weights(tmp_path, arch) == file


def written_texts() -> dict[str, str]:
    """Documents, notebooks, scripts and sources of all packages, but not tests and results."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    kept = [name for name in listed if not {"tests", "results", "testing"} & set(name.split("/"))]
    kinds = (".md", ".ipynb", ".py", ".sh", ".toml")
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in kept if name.endswith(kinds)}


def test_written_commands_and_file_names_exist():
    """Every `python -m common.fetch NAME` has a name that exists, and every published *.th is created by one."""
    text = "\n".join(written_texts().values())
    names = {name for match in re.finditer(r"-m common\.fetch ((?:[a-z][\w-]* ?)+)", text) for name in match[1].split()}
    assert len(names) > 5 and names <= set(REMOTE_FILES)
    files = set(re.findall(r"[\w-]+-[0-9a-f]{8}\.th\b", text))
    assert len(files) > 1 and files <= set(WEIGHTS.values())


def test_only_one_module_writes_commands_to_download():
    """Messages are built by fetch_command, so that the tests above cover all of them."""
    found = [
        name
        for name, text in written_texts().items()
        if name.endswith(".py") and re.search(r"f\"[^\"]*python -m common\.fetch", text)
    ]
    assert found == ["common/src/common/downloads.py"]
