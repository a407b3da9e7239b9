"""A user's mistakes: one line on standard error that says what to do, status 2, nothing half-written."""

import json
from pathlib import Path

import pytest
import torch
from rmp_helpers import pruning_net, write_image_folder

from common.data import load_dataset
from common.testing import hostile_pickle
from rewarded_metapruning import cost, evaluate, search, train
from rewarded_metapruning.files import save_pruning_net, write_flat
from rewarded_metapruning.paper import small_scale, tables

TRAIN, SEARCH, EVALUATE, COST, SCALE = train.main, search.main, evaluate.main, cost.main, small_scale.main
PUBLISHED = "14,14,16,22,21,22,20,19,16,22,16,20,22,12,25,18,15,21,21,21"
TINY = ["--max-iters", "1", "--population", "4", "--parents", "2", "--calibration-batches", "1", "--batch-size", "16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_image_folder(tmp_path_factory.mktemp("mistakes"))
    data = load_dataset(f"folder:{root}")
    from rewarded_metapruning.pruning_net import PruningNet
    from rewarded_metapruning.space import find_space

    net = PruningNet(find_space("resnet-small", 2, (3, 16, 16)))
    save_pruning_net(root / "net.safetensors", net, data, (14, 26))
    write_flat(root, net.state_dict())
    other = pruning_net("mobilenetv1-small")
    save_pruning_net(root / "other.safetensors", other, data, (0, 30))
    torch.save(other.state_dict(), root / "other.pth.tar")
    (root / "short.pth.tar").write_bytes((root / "checkpoint.pth.tar").read_bytes()[:9000])
    (root / "evil.pth.tar").write_bytes(hostile_pickle(root / "hacked"))
    (root / "file").write_text("a file where a folder should be")
    row = {"nev": [20] * 7}
    files = {
        "good": {"arch": "resnet-small", "candidates": [row]},
        "other": {"arch": "resnet50", "candidates": [row]},
        "empty": {"arch": "resnet-small", "candidates": []},
        "long": {"arch": "resnet-small", "candidates": [{"nev": [20] * 8}]},
        "scales": {"arch": "resnet-small", "scales": [14], "candidates": [row]},
        "words": {"arch": "resnet-small", "candidates": [{"nev": ["wide"] * 7}]},
        "list": [1, 2],
    }
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    (root / "text.json").write_text("the best one")
    (root / "damaged").mkdir()
    (root / "damaged" / "tested-0.jsonl").write_text("not json\n")
    return root


NEV = ["--nev", "20,20,20,20,20,20,20"]
NET = ["--net-cache", "{root}/net.safetensors"]
MISTAKES = {
    "unknown network": (TRAIN, ["--arch", "resnet51"], "resnet51 resnet50"),
    "unknown network, search": (SEARCH, ["--arch", "mobilenet"], "mobilenet"),
    "unknown network, cost": (COST, ["--arch", "resnet51"], "resnet51"),
    "network without a name": (TRAIN, ["--arch"], "--arch"),
    "network of concatenations": (TRAIN, ["--arch", "densenet40"], "leading channels"),
    "unknown option": (TRAIN, ["--learning-rates", "0.1"], "--learning-rates -h"),
    "abbreviated option": (SEARCH, [*NET, "--max-it", "3"], "--max-it"),
    "no ImageNet": (
        TRAIN,
        ["--arch", "resnet50", "--dataset", "imagenet", "--data", "{root}/none"],
        "imagenet none --dataset-dir",
    ),
    "small pictures for a large network": (TRAIN, ["--arch", "resnet50"], "224"),
    "unknown data set": (TRAIN, ["--dataset", "imagenette"], "imagenette"),
    "more pictures than there are": (TRAIN, ["--pictures", "4000"], "--pictures 4000 40"),
    "a hold-out of nothing": (TRAIN, ["--holdout", "0"], "hold-out"),
    "a hold-out of everything": (TRAIN, ["--holdout", "1.5"], "hold-out"),
    "scales the wrong way round": (TRAIN, ["--scales", "20", "10"], "--scales 20 10"),
    "scales beyond the table": (TRAIN, ["--scales", "0", "31"], "--scales 0 31"),
    "compile": (TRAIN, ["--compile"], "--compile"),
    "negative rate": (TRAIN, ["--learning_rate=-1"], "--learning-rate"),
    "a rate that explodes": (TRAIN, ["--learning-rate", "1e30", "--epochs", "2"], "finite"),
    "a device that is not there": (TRAIN, ["--device", "tpu"], "tpu auto"),
    "a file where the folder should be": (TRAIN, ["--save", "{root}/file"], "file"),
    "no PruningNet": (SEARCH, ["--net_cache=./nowhere/checkpoint.pth.tar"], "nowhere/checkpoint.pth.tar train.py"),
    "a PruningNet cut short": (SEARCH, ["--net-cache", "{root}/short.pth.tar"], "short.pth.tar"),
    "a PruningNet with code in it": (SEARCH, ["--net-cache", "{root}/evil.pth.tar"], "evil.pth.tar"),
    "another network's PruningNet": (
        SEARCH,
        ["--net-cache", "{root}/other.safetensors"],
        "mobilenetv1-small resnet-small",
    ),
    "another network's tensors": (SEARCH, ["--net-cache", "{root}/other.pth.tar"], "other.pth.tar tensor"),
    "scales that the PruningNet never drew": (SEARCH, [*NET, "--scales", "14", "27"], "14 to 26 --scales 14 27"),
    "an empty window": (SEARCH, [*NET, "--macs-min", "2", "--macs-max", "1"], "least most"),
    "a window out of reach": (SEARCH, [*NET, "--macs-max", "0.001"], "cannot cost"),
    "a window that is no number": (SEARCH, [*NET, "--macs-max", "nan"], "--macs-max nan"),
    "two kinds of window": (SEARCH, [*NET, "--macs-max", "1", "--target-macs", "0.5"], "--target-macs --macs-max both"),
    "a target in percent": (SEARCH, [*NET, "--target-macs", "50"], "(0, 1]"),
    "one parent that crosses": (SEARCH, [*NET, "--parents", "0"], "at least 1"),
    "more children than places": (SEARCH, [*NET, "--population", "4", "--mutants", "9"], "mutants population"),
    "a base accuracy of nothing": (SEARCH, [*NET, "--base-acc", "0"], "positive"),
    "base MACs that are negative": (SEARCH, [*NET, "--base-macs", "-3"], "positive"),
    "a power of zero": (SEARCH, [*NET, "--acc-power", "0"], "powers"),
    "a damaged memory": (SEARCH, [*NET, *TINY, "--out", "{root}/damaged"], "tested-0.jsonl damaged --force"),
    "a search with damaged scales": (EVALUATE, ["--nev-file", "{root}/scales.json"], "scales.json damaged --scales"),
    "no search": (EVALUATE, ["--nev-file", "{root}/none.json"], "none.json search.py --nev"),
    "text for a search": (EVALUATE, ["--nev-file", "{root}/text.json"], "text.json"),
    "another JSON": (EVALUATE, ["--nev-file", "{root}/list.json"], "list.json candidates"),
    "a search without candidates": (EVALUATE, ["--nev-file", "{root}/empty.json"], "empty.json candidates"),
    "another network's search": (EVALUATE, ["--nev-file", "{root}/other.json"], "resnet50 --arch"),
    "a rank that is not there": (EVALUATE, ["--nev-file", "{root}/good.json", "--rank", "2"], "--rank 2 1"),
    "a damaged vector": (EVALUATE, ["--nev-file", "{root}/words.json"], "rank 1 damaged"),
    "a vector of another length": (EVALUATE, ["--nev-file", "{root}/long.json"], "7 entries 8"),
    "a short vector": (EVALUATE, ["--nev", "1,2,3"], "7 entries 3"),
    "an entry too large": (EVALUATE, ["--nev", "31,0,0,0,0,0,0"], "entry 0 31 30"),
    "code for a vector": (EVALUATE, ["--nev", "__import__('os').system('true')"], "encoding vector"),
    "a published vector that is not": (EVALUATE, ["--nev", "published"], "resnet-small resnet50"),
    "rotated, but no MobileNetV1": (EVALUATE, [*NEV, "--rotated"], "mobilenetv1"),
    "beside nobody": (EVALUATE, [*NEV, "--beside", "everything"], "everything unpruned random"),
    "generated without a PruningNet": (EVALUATE, [*NEV, "--init", "generated", "--net-cache", "{root}/no"], "train.py"),
    "no random vectors": (SCALE, ["--random", "0"], "--random 0"),
    "a cost of a short vector": (COST, ["--nev", "1,2"], "7 entries"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(name, root, tmp_path, capsys):
    main, options, words = MISTAKES[name]
    place = {TRAIN: "--save", SEARCH: "--out", EVALUATE: "--save", SCALE: "--out"}
    given = ["--arch", "resnet-small"]
    if main is not COST:
        given += ["--dataset", f"folder:{root}", "--device", "cpu", place[main], str(tmp_path / "out")]
    if main is SCALE:
        given += ["--results", str(tmp_path)]
    if main in (TRAIN, EVALUATE):
        given += ["--batch-size", "16"]
    status = main([*given, *(option.replace("{root}", str(root)) for option in options)])
    error = capsys.readouterr().err
    message = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(message) == 1 and "Traceback" not in error, error
    for word in words.split():
        assert word in message[0], message[0]
    left = {path.name for path in (tmp_path / "out").rglob("*")} if (tmp_path / "out").exists() else set()
    assert left <= {"config.json"}, left
    assert not (root / "hacked").exists()


def test_stale_tables_are_a_mistake_of_one_line(monkeypatch, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- results:rewarded_metapruning.published:begin -->\n\nold\n\n<!-- results:rewarded_metapruning.published:end -->\n"
    )
    monkeypatch.setattr(tables, "README", readme)
    assert tables.main(["--check"]) == 2
    assert "rewarded_metapruning.published" in capsys.readouterr().err
    assert tables.PUBLISHED["resnet50"].nev == tuple(int(entry) for entry in PUBLISHED.split(","))
