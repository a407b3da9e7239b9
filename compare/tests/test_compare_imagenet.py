"""Two comparisons whose halves of the images exchange roles: evaluated image by image, tested in pairs, as table and plot."""

import csv
import json
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from common.atomic import write_json
from common.checkpoint import save_model
from common.errors import UserError
from common.models import create_model
from common.runs import read_json
from compare.paper import imagenet
from compare.settings import main

IMAGES, CLASSES = 24, 3


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Folders of two comparisons of LeNet-5 on 24 images with a table of labels, the second with exchanged halves."""
    home = tmp_path_factory.mktemp("halves")
    generator = np.random.default_rng(0)
    (home / "images").mkdir()
    with open(home / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for i in range(IMAGES):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                home / "images" / f"{i:02}.png"
            )
            table.writerow([f"{i:02}.png", i % CLASSES])
    torch.manual_seed(0)
    save_model(home / "dense.safetensors", create_model("lenet5", num_classes=CLASSES, in_channels=3, image_size=32))
    words = ["--checkpoint", str(home / "dense.safetensors"), "--dataset", f"folder:{home / 'images'}", "--labels"]
    words += [
        str(home / "labels.csv"),
        "--split",
        "0.5",
        "--methods",
        "random",
        "l1_norm",
        "--target-macs",
        "0.9",
        "0.7",
    ]
    words += ["--finetune-epochs", "0", "--seeds", "0", "--no-latency", "--no-report", "--jobs", "1"]
    folders = [home / "a", home / "b"]
    for folder, swap in zip(folders, ([], ["--swap-split"]), strict=True):
        argv = [*words, *swap, "--out", str(folder)]
        with mock.patch.object(sys, "orig_argv", ["python", "-m", "compare", *argv]):  # the recorded command
            assert main(argv) == 0
    return folders


def test_every_image_is_evaluated_once_with_a_network_pruned_without_it(halves, tmp_path):
    file = imagenet.add_halves(halves, "resnet20", tmp_path)
    found, record = imagenet.read_network(file), read_json(file)
    assert {(one.label, one.target) for one in found.pruned} == {
        (n, t) for n in ("random", "L1 norm") for t in (0.9, 0.7)
    }
    assert len(found.right) == IMAGES
    for one in found.pruned:  # equal to what compare measured on the two halves
        measured = [
            next(r for r in h["rows"] if (r["label"], r["target"]) == (one.label, one.target)) for h in record["halves"]
        ]
        assert one.top1 == pytest.approx(sum(row["top1"] for row in measured) / 2, abs=1e-3)
        assert 100 * one.agrees.mean() == pytest.approx(sum(row["agreement"] for row in measured) / 2, abs=1e-3)
        assert all(0.98 * one.target <= part <= one.target for part in one.macs)
    dense = sum(half["dense"]["top1"] for half in record["halves"]) / 2
    assert found.top1 == pytest.approx(dense, abs=1e-3)
    table = imagenet.all_tables(tmp_path)
    assert table.count("| random |") == 1 and "90 % of the MACs" in table and "At 70 % of the MACs" in table
    short = imagenet.short_table(results=tmp_path, target=found.pruned[0].target)
    assert f"| dense | {found.top1:.1f} |" in short and len(short.splitlines()) <= 3 + len(found.pruned)
    (plot,) = imagenet.draw(tmp_path / "plot.png", tmp_path)
    assert Image.open(plot).size[0] > 300


def digest_of(folder):
    return read_json(next(folder.glob("seed0/*/config.json")))["options"]["start_digest"]


def test_results_of_one_half_and_unreachable_targets_are_named(halves, tmp_path):
    file = imagenet.add_halves(halves, "ResNet-20, 3 classes", tmp_path)
    assert file.name == "imagenet-resnet_20_3_classes.json"
    record = read_json(file)
    del record["halves"][1]["rows"][0]
    record["halves"][0]["unreachable"] = ["seed0/decore-macs0.9"]
    write_json(file, record)
    found = imagenet.read_network(file)
    gone = record["halves"][0]["rows"][0]
    assert (gone["label"], gone["target"]) not in {(one.label, one.target) for one in found.pruned}
    assert found.unfinished == (f"{gone['label']} at {100 * gone['target']:g} %", "seed0/decore-macs0.9")
    assert "Without a result on both halves: " in imagenet.network_table(found)


def test_results_of_other_methods_stay_in_the_file(halves, tmp_path):
    file = imagenet.add_halves(halves, "resnet20", tmp_path)
    fresh = record = read_json(file)
    for half in record["halves"]:  # as if another comparison, on another machine, had one method only
        half["rows"] = [
            {**row, "method": "older", "label": "older"} for row in half["rows"] if row["method"] == "random"
        ]
        half["runs"][0]["environment"]["device"] = "cpu (another)"
    write_json(file, record)
    assert imagenet.add_halves(halves, "resnet20", tmp_path) == file
    rows = {(row["method"], row["target"]): row for row in read_json(file)["halves"][0]["rows"]}
    assert set(rows) == {(name, target) for name in ("older", "random", "l1_norm") for target in (0.9, 0.7)}
    assert rows["older", 0.9]["right"] == rows["random", 0.9]["right"]
    found = imagenet.read_network(file)
    assert {one.machines for one in found.pruned if one.label == "older"} == {("cpu (another)",)}
    assert "- CPU times on cpu (another): older; on cpu (" in imagenet.network_table(found)
    again = read_json(imagenet.add_halves(halves, "resnet20", tmp_path))
    assert [len(half["runs"]) for half in again["halves"]] == [2, 2]  # runs without results are not kept
    fresh["halves"][0]["dense"]["right"] = "00" * 2
    write_json(file, fresh)
    with pytest.raises(UserError, match="another network or other images"):
        imagenet.add_halves(halves, "resnet20", tmp_path)
    assert read_json(file) == fresh


def test_same_half_twice_is_rejected(halves, tmp_path):
    with pytest.raises(UserError, match="--swap-split"):
        imagenet.add_halves([halves[0], halves[0]], "resnet20", tmp_path)
    changed = tmp_path / "changed"
    shutil.copytree(halves[1], changed)
    for file in changed.glob("seed0/*/config.json"):
        write_json(file, json.loads(file.read_text().replace(digest_of(halves[1]), "0" * 16)))
    with pytest.raises(UserError, match="another dense network"):
        imagenet.add_halves([halves[0], changed], "resnet20", tmp_path)
    shutil.rmtree(changed)
    with pytest.raises(UserError, match="no finished result"):
        imagenet.add_halves([halves[0], tmp_path], "resnet20", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(0, 0, 5), (3, 1, 4), (12, 2, 7), (2, 12, 7), (40, 40, 0)])
def test_p_value_is_that_of_mcnemar(only_a, only_b, both):
    a = np.array([True] * only_a + [False] * only_b + [True] * both + [False] * 3)
    b = np.array([False] * only_a + [True] * only_b + [True] * both + [False] * 3)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert imagenet.paired_p_value(a, b) == pytest.approx(expected, rel=1e-12)


def test_table_marks_what_is_not_worse_than_the_best():
    right = np.arange(100) < 90
    best, close, far = right.copy(), right.copy(), right.copy()
    close[:4], far[:10] = False, False  # 4 of 4 discordant images: p = 0.125; 10 of 10: p = 0.002
    pruned = tuple(
        imagenet.Pruned(label, 0.8, flags, flags, (0.8, 0.79), (1.0, 3.0))
        for label, flags in (("best", best), ("close", close), ("far", far))
    )
    table = imagenet.network_table(imagenet.NetworkResults("net", right, 10**6, pruned, ()))
    assert "| best | **90.0 (90.0)** | 2 |" in table and "| close | **86.0 (86.0)** | 2 |" in table
    assert "| far | 80.0 (80.0) | 2 |" in table
    assert "best is the most accurate: 90.0 %, 0.0 points below the dense network, not significantly" in table
    assert "not significantly less accurate: close." in table
