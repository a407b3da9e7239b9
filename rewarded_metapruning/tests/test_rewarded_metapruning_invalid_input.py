"""Invalid input: one line on standard error with the remedy, status 2, no partially written files."""

import json
from pathlib import Path

import pytest
import torch
from rmp_helpers import pruning_net, write_image_folder

from common.data import load_dataset
from common.testing import hostile_pickle
from rewarded_metapruning import cost, search, train_chosen, train_pruning_net
from rewarded_metapruning.paper import search_vs_random, tables
from rewarded_metapruning.pruning_net_files import save_original_format, save_pruning_net

TRAIN, SEARCH, EVALUATE = train_pruning_net.main, search.main, train_chosen.main
COST, COMPARE = cost.main, search_vs_random.main
PUBLISHED = "14,14,16,22,21,22,20,19,16,22,16,20,22,12,25,18,15,21,21,21"
TINY = ["--max-iters", "1", "--population", "4", "--parents", "2", "--calibration-batches", "1", "--batch-size", "16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = write_image_folder(tmp_path_factory.mktemp("invalid"))
    data = load_dataset(f"folder:{root}")
    from rewarded_metapruning.pruning_net import PruningNet
    from rewarded_metapruning.space import find_space

    net = PruningNet(find_space("resnet-small", 2, (3, 16, 16)))
    save_pruning_net(root / "net.safetensors", net, data, (14, 26))
    save_original_format(root, net.state_dict())
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
        "unfinished": {"arch": "resnet-small", "finished": False, "generations": 3, "candidates": [row]},
        "empty": {"arch": "resnet-small", "candidates": []},
        "long": {"arch": "resnet-small", "candidates": [{"nev": [20] * 8}]},
        "range": {"arch": "resnet-small", "scale_range": [14], "candidates": [row]},
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
INVALID_INPUT = {
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
    "small images for an ImageNet network": (TRAIN, ["--arch", "resnet50"], "224"),
    "unknown data set": (TRAIN, ["--dataset", "imagenette"], "imagenette"),
    "too many training images": (TRAIN, ["--train-images", "4000"], "--train-images 4000 40"),
    "empty holdout": (TRAIN, ["--holdout", "0"], "--holdout (0, 1)"),
    "holdout above 1": (TRAIN, ["--holdout", "1.5"], "--holdout (0, 1)"),
    "reversed scale range": (TRAIN, ["--scale-range", "20", "10"], "--scale-range 20 10"),
    "scale range beyond the table": (TRAIN, ["--scale-range", "0", "31"], "--scale-range 0 31"),
    "compile": (TRAIN, ["--compile"], "--compile"),
    "negative learning rate": (TRAIN, ["--learning_rate=-1"], "--learning-rate"),
    "diverging learning rate": (
        TRAIN,
        ["--learning-rate", "1000", "--weight-decay", "1000", "--batch-size", "2"],
        "finite",
    ),
    "unknown device": (TRAIN, ["--device", "tpu"], "tpu auto"),
    "file in place of the folder": (TRAIN, ["--save", "{root}/file"], "file"),
    "missing PruningNet": (SEARCH, ["--net_cache=./nowhere/checkpoint.pth.tar"], "nowhere/checkpoint.pth.tar train.py"),
    "truncated PruningNet": (SEARCH, ["--net-cache", "{root}/short.pth.tar"], "short.pth.tar"),
    "PruningNet with code": (SEARCH, ["--net-cache", "{root}/evil.pth.tar"], "evil.pth.tar"),
    "PruningNet of another network": (
        SEARCH,
        ["--net-cache", "{root}/other.safetensors"],
        "mobilenetv1-small resnet-small",
    ),
    "tensors of another network": (SEARCH, ["--net-cache", "{root}/other.pth.tar"], "other.pth.tar tensor"),
    "scale range beyond the PruningNet's": (
        SEARCH,
        [*NET, "--scale-range", "14", "27"],
        "14 to 26 --scale-range 14 27",
    ),
    "empty window": (SEARCH, [*NET, "--macs-min", "0.2", "--macs-max", "0.1"], "minimum maximum"),
    "window in MACs": (SEARCH, [*NET, "--macs-max", "900000"], "--macs-max 900000 [0, 100000]"),
    "window above the network": (SEARCH, [*NET, "--macs-max", "99000"], "--macs-max 99000 unpruned million"),
    "unreachable window": (SEARCH, [*NET, "--macs-max", "0.001"], "unreachable"),
    "window of NaN": (SEARCH, [*NET, "--macs-max", "nan"], "--macs-max nan"),
    "target and window": (SEARCH, [*NET, "--macs-max", "1", "--target-macs", "0.5"], "--target-macs --macs-max both"),
    "target in percent": (SEARCH, [*NET, "--target-macs", "50"], "[0.01, 1)"),
    "no parents": (SEARCH, [*NET, "--parents", "0"], "1 to 100,000"),
    "more mutants than candidates": (SEARCH, [*NET, "--population", "4", "--mutants", "9"], "mutants population"),
    "base accuracy of zero": (SEARCH, [*NET, "--base-acc", "0"], "(0, 100]"),
    "negative base MACs": (SEARCH, [*NET, "--base-macs", "-3"], "(0, 100000]"),
    "exponent of zero": (SEARCH, [*NET, "--acc-power", "0"], "(0, 20]"),
    "damaged cache": (SEARCH, [*NET, *TINY, "--out", "{root}/damaged"], "tested-0.jsonl damaged --force"),
    "damaged scale range": (EVALUATE, ["--nev-file", "{root}/range.json"], "range.json damaged --scale-range"),
    "missing search file": (EVALUATE, ["--nev-file", "{root}/none.json"], "none.json search.py --nev"),
    "text as search file": (EVALUATE, ["--nev-file", "{root}/text.json"], "text.json"),
    "other JSON as search file": (EVALUATE, ["--nev-file", "{root}/list.json"], "list.json candidates"),
    "search file without candidates": (EVALUATE, ["--nev-file", "{root}/empty.json"], "empty.json candidates"),
    "search file of another network": (EVALUATE, ["--nev-file", "{root}/other.json"], "resnet50 --arch"),
    "missing rank": (EVALUATE, ["--nev-file", "{root}/good.json", "--rank", "2"], "--rank 2 1"),
    "damaged vector": (EVALUATE, ["--nev-file", "{root}/words.json"], "rank 1 damaged"),
    "vector of another length in file": (EVALUATE, ["--nev-file", "{root}/long.json"], "7 entries 8"),
    "short vector": (EVALUATE, ["--nev", "1,2,3"], "7 entries 3"),
    "entry above 30": (EVALUATE, ["--nev", "31,0,0,0,0,0,0"], "entry 0 31 30"),
    "code as vector": (EVALUATE, ["--nev", "__import__('os').system('true')"], "encoding vector"),
    "vector and search file": (EVALUATE, [*NEV, "--nev-file", "{root}/good.json"], "--nev --nev-file"),
    "vector and rank": (EVALUATE, [*NEV, "--rank", "2"], "--nev --rank"),
    "unfinished search": (EVALUATE, ["--nev-file", "{root}/unfinished.json"], "generations: 3 --unfinished"),
    "unpublished vector": (EVALUATE, ["--nev", "published"], "resnet-small resnet50"),
    "rotated without MobileNetV1": (EVALUATE, [*NEV, "--rotated"], "mobilenetv1"),
    "unknown additional network": (EVALUATE, [*NEV, "--also-train", "everything"], "everything unpruned random"),
    "generated weights without PruningNet": (
        EVALUATE,
        [*NEV, "--init", "generated", "--net-cache", "{root}/no"],
        "train.py",
    ),
    "no random vectors": (COMPARE, ["--random", "0"], "--random 0"),
    "cost of a short vector": (COST, ["--nev", "1,2"], "7 entries"),
}


@pytest.mark.parametrize("name", INVALID_INPUT)
def test_invalid_input_prints_one_line_with_status_2(name, root, tmp_path, capsys):
    main, options, words = INVALID_INPUT[name]
    place = {TRAIN: "--save", SEARCH: "--out", EVALUATE: "--save", COMPARE: "--out"}
    argv = ["--arch", "resnet-small"]
    if main is not COST:
        argv += ["--dataset", f"folder:{root}", "--device", "cpu", place[main], str(tmp_path / "out")]
    if main is COMPARE:
        argv += ["--results", str(tmp_path)]
    if main in (TRAIN, EVALUATE):
        argv += ["--batch-size", "16"]
    status = main([*argv, *(option.replace("{root}", str(root)) for option in options)])
    error = capsys.readouterr().err
    message = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(message) == 1 and "Traceback" not in error, error
    for word in words.split():
        assert word in message[0], message[0]
    files = {path.name for path in (tmp_path / "out").rglob("*")} if (tmp_path / "out").exists() else set()
    assert files <= {"config.json"}, files
    assert not (root / "hacked").exists()


def test_stale_tables_fail_check(monkeypatch, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- results:rewarded_metapruning.published:begin -->\n\nold\n\n<!-- results:rewarded_metapruning.published:end -->\n"
    )
    monkeypatch.setattr(tables, "README", readme)
    assert tables.main(["--check"]) == 2
    assert "rewarded_metapruning.published" in capsys.readouterr().err
    assert tables.PUBLISHED["resnet50"] == tuple(int(entry) for entry in PUBLISHED.split(","))
