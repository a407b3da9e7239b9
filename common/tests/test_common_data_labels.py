"""A flat folder of images with a CSV file of their classes: matched to the network's outputs, split, and the parts exchanged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import evaluate, train
from common.checkpoint import save_model
from common.data import DataBundle, load_dataset
from common.data.labels import held_out, read_labels
from common.errors import UserError
from common.models import create_model
from common.runs import read_json
from common.testing import single_error_line

ROWS = [
    (f"{number:02}.png", number % 4 if number < 20 else number) for number in range(24)
]  # four classes with one image


def write(root: Path, rows=ROWS, header="file,label0,author", size: int = 8) -> tuple[str, str]:
    """Write images and labels.csv, and return --dataset and --labels."""
    (root / "images").mkdir()
    random = np.random.default_rng(0)
    for name, _ in rows:
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / "images" / name)
    lines = [header, *(f'{name},{label},"Smith, A."' for name, label in rows)]
    (root / "labels.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return f"folder:{root / 'images'}", str(root / "labels.csv")


def names(images) -> set[str]:
    listing = images.listing
    return {bytes(listing.paths[position]).decode() for position in images.chosen}


def test_numbers_are_outputs_of_the_network(tmp_path):
    dataset, labels = write(tmp_path)
    data = load_dataset(dataset, labels=labels, test_only=True)
    assert data.numbered and data.num_classes == 24
    assert len(data.train) == 0 and len(data.test) == 24
    assert data.test.labels.bincount().tolist() == [5, 5, 5, 5, *[0] * 16, 1, 1, 1, 1]
    network = [f"name {number}" for number in range(30)]
    named = data.with_classes(network, "m")
    assert named.classes == network and torch.equal(named.test.labels, data.test.labels)
    with pytest.raises(UserError, match="has 20 classes, but .* has the label 23"):
        data.with_classes(network[:20], "m")


def test_number_or_file_gives_all_classes(tmp_path):
    dataset, labels = write(tmp_path)
    assert load_dataset(dataset, labels=labels, test_only=True, classes="1000").num_classes == 1000
    (tmp_path / "names.txt").write_text("\n".join(f"n{number}" for number in range(50)))
    data = load_dataset(dataset, labels=labels, test_only=True, classes=tmp_path / "names.txt")
    assert data.classes[49] == "n49" and int(data.test.labels.max()) == 23
    with pytest.raises(UserError, match="--classes 1: a number of classes"):
        load_dataset(dataset, labels=labels, test_only=True, classes="1")


def test_class_names_are_matched_by_name(tmp_path):
    dataset, labels = write(tmp_path, [("a.png", "dog"), ("b.png", "cat"), ("c.png", "dog")], "image,class,author")
    data = load_dataset(dataset, labels=labels, test_only=True)
    assert not data.numbered and data.classes == ["cat", "dog"]
    named = data.with_classes(["fish", "dog", "cat"], "m")
    assert sorted(named.test.labels.tolist()) == [1, 1, 2]
    with pytest.raises(UserError, match="1 of the 2 classes .* are not classes of the network: 'dog'"):
        data.with_classes(["fish", "cat"], "m")


def test_halves_are_complementary_stratified_and_exchanged(tmp_path):
    dataset, labels = write(tmp_path, size=70)  # streamed
    first = load_dataset(dataset, labels=labels, split=0.5)
    second = load_dataset(dataset, labels=labels, split=0.5, swap_split=True)
    assert len(first.train) == len(first.test) == 12
    assert names(first.train) | names(first.test) == {name for name, _ in ROWS}
    assert names(first.train) == names(second.test) and names(first.test) == names(second.train)
    assert first.fingerprint != second.fingerprint
    again = load_dataset(dataset, labels=labels, split=0.5)
    assert names(again.test) == names(first.test) and again.fingerprint == first.fingerprint
    counts = first.test.labels.bincount(minlength=24)[:4].tolist()
    assert all(count in (2, 3) for count in counts)  # of five images each


def test_held_out_images_are_those_of_the_names(tmp_path):
    dataset, labels = write(tmp_path)
    folder = Path(dataset.partition(":")[2])
    listing = read_labels(folder, labels).listing
    held = {bytes(path) for path in listing.paths[held_out(listing, 0.25)]}
    assert len(held) == 6
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(f"{n},{c}" for n, c in reversed(ROWS)))
    listing = read_labels(folder, labels).listing
    assert {bytes(path) for path in listing.paths[held_out(listing, 0.25)]} == held  # whatever the order of the rows
    with pytest.raises(UserError, match=r"--split 0.01: .* has 24 images, too few"):
        held_out(listing, 0.01)


def test_changed_label_changes_the_fingerprint(tmp_path):
    dataset, labels = write(tmp_path)
    before = load_dataset(dataset, labels=labels, test_only=True).fingerprint
    path = tmp_path / "labels.csv"
    path.write_text(path.read_text("utf-8-sig").replace("00.png,0", "00.png,1"))
    assert load_dataset(dataset, labels=labels, test_only=True).fingerprint != before


def test_names_without_ending_and_columns_by_name(tmp_path):
    dataset, labels = write(tmp_path)
    text = "\n".join(["TrueLabel\tImageId\tlabel", *(f"{label}\t{name[:-4]}\t1" for name, label in ROWS)])
    (tmp_path / "labels.tsv").write_text(text)
    data = load_dataset(dataset, labels=tmp_path / "labels.tsv", label_columns=["ImageId", "TrueLabel"], test_only=True)
    assert torch.equal(data.test.labels, load_dataset(dataset, labels=labels, test_only=True).test.labels)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("file,label\n00.png,0\n01.png,1\n99.png,1\n", {}, "1 of 3 images are not in .*99.png"),
        ("file,label\n00.png,0\n01.png,1\n00.png,1\n", {}, "'00.png' is listed more than once"),
        ("file,label\n00.png,0\n01.png,-1\n", {}, "class -1; numbers of classes begin with 0"),
        ("file,label\n00.png,0\n01.png,9999999999\n", {}, "numbers of classes are below"),
        ("file,label\n00.png,3\n01.png,3\n", {}, "only one class, '3'"),
        ("file,label\n00.png,0\n01.png\n", {}, "line 3 has no file or no class"),
        ("file,label\n../labels.csv,0\n01.png,1\n", {}, "is outside of"),
        ("file,label\n/etc/passwd.png,0\n01.png,1\n", {}, "is outside of"),
        ("one,two\n00.png,0\n", {}, r"not clear from their names \(one, two\); add --label-columns"),
        ("one,two\n00.png,0\n", {"label_columns": ["one", "three"]}, "has no column 'three'; its columns are one, two"),
        ("one,two\n00.png,0\n", {"label_columns": ["one"]}, "1 names; give that of the files and that of the classes"),
        ("file,label\n", {}, "no rows after the first"),
        ("", {}, "not clear"),
        ("file,label\n00.png,0\x00\n01.png,\xff", {}, "--labels"),
        (None, {"labels": None, "label_columns": ["a", "b"]}, "add --labels FILE.csv"),
        (None, {"labels": "none.csv"}, "none.csv: no such file"),
        (None, {"test_only": False}, "all images are test images; add --split 0.5"),
        (None, {"swap_split": True}, "--swap-split: exchanges the parts of --split"),
        (None, {"name": "digits"}, "requires the folder of the images"),
    ],
)
def test_unsuitable_labels_are_one_line(tmp_path, text, options, message):
    dataset, labels = write(tmp_path)
    if text is not None:
        (tmp_path / "labels.csv").write_text(text, encoding="latin1")
    chosen = {"name": dataset, "labels": labels, "test_only": True, **options}
    with pytest.raises(UserError, match=message) as found:
        load_dataset(**chosen)
    assert "\n" not in str(found.value)


def test_images_without_label_are_reported(tmp_path):
    dataset, labels = write(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(f"{n},{c}" for n, c in ROWS[:20]))
    with pytest.warns(UserWarning, match=r"4 images are not listed .* e\.g\. 20\.png"):
        assert len(load_dataset(dataset, labels=labels, test_only=True).test) == 20


def test_evaluate_command_uses_all_outputs(tmp_path, capsys):
    dataset, labels = write(tmp_path, size=28)
    torch.manual_seed(0)
    model = create_model("lenet5", 30, in_channels=3)
    save_model(tmp_path / "m.safetensors", model, classes=[f"name {number}" for number in range(30)])
    argv = ["--checkpoint", str(tmp_path / "m.safetensors"), "--dataset", dataset, "--labels", labels, "--no-latency"]
    top1 = {}
    for part, options in {"all": [], "first": ["--split", "0.5"], "second": ["--split", "0.5", "--swap-split"]}.items():
        assert evaluate.main([*argv, *options, "--json", str(tmp_path / part)]) == 0
        top1[part] = read_json(tmp_path / part)["top1"]
    assert top1["all"] == pytest.approx((top1["first"] + top1["second"]) / 2)
    capsys.readouterr()
    argv = ["--arch", "lenet5", "--dataset", dataset, "--labels", labels, "--out", str(tmp_path / "run")]
    line = single_error_line(train.main(argv), capsys.readouterr().err)
    assert "add --split 0.5" in line


def bundle(classes: list[str]) -> DataBundle:
    images = load_dataset("digits").test
    return DataBundle("imagenet", images, images, classes, images.image_shape, "0" * 16)


def test_folders_of_ilsvrc_are_in_the_order_of_its_classes():
    synsets = [f"n{number:08}" for number in range(1000)]
    named = [f"name {number}" for number in range(1000)]
    data = bundle(synsets)
    matched = data.with_classes(named, "m")
    assert matched.classes == named and torch.equal(matched.test.labels, data.test.labels)
    with pytest.raises(UserError, match="are not classes of the network"):
        bundle(synsets[:999]).with_classes(named, "m")  # some are missing: by name only
    reordered = data.with_classes([*reversed(synsets)], "m")
    assert torch.equal(reordered.test.labels, 999 - data.test.labels)


def build(num_classes: int = 30) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))


def test_own_network_keeps_its_number_of_classes(tmp_path, capsys):
    dataset, labels = write(tmp_path)
    torch.save(build().state_dict(), tmp_path / "m.pth")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef build(num_classes=30):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    )
    argv = ["--model", f"{tmp_path / 'net.py'}:build", "--weights", str(tmp_path / "m.pth"), "--dataset", dataset]
    assert evaluate.main([*argv, "--labels", labels, "--no-latency"]) == 0
    assert "top-1" in capsys.readouterr().out
