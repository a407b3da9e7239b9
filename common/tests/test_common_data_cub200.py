"""The reader of CUB-200-2011, on a small data set of the same layout."""

from pathlib import Path

import numpy as np
import pytest

from common.data import FolderImages, load_dataset
from common.errors import UserError
from common.testing import write_cub200

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


@pytest.mark.parametrize("inside", ["", "CUB_200_2011"])
def test_cub200_layout_is_read(tmp_path: Path, inside: str) -> None:
    """The lists give labels and split; the order of their lines does not matter."""
    folder = write_cub200(tmp_path / "cub200", classes=3, train=4, test=2)
    data = load_dataset("cub200", tmp_path / "cub200" / inside)
    assert isinstance(data.train, FolderImages) and data.input_shape == (3, 224, 224)
    assert data.classes == ["001.Bird_0", "002.Bird_1", "003.Bird_2"]
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert bytes(data.test.listing.paths[0]) == b"001.Bird_0/Bird_0_0004.png"
    batch = next(iter(data.test.batches(6, workers=0)))
    assert batch.images.shape == (6, 3, 224, 224) and np.isfinite(batch.images.numpy()).all()
    before = data.fingerprint
    for name in LISTS:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(reversed(lines)) + "\n")
    assert load_dataset("cub200", folder).fingerprint == before
    split = (folder / "train_test_split.txt").read_text()
    (folder / "train_test_split.txt").write_text(split.replace("5 0", "5 1").replace("\n4 1", "\n4 0"))
    assert load_dataset("cub200", folder).fingerprint != before


def change(name: str, before: str, after: str):
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1))

    return damage


INVALID = {
    "no labels": (lambda folder: (folder / LISTS[1]).unlink(), "image_class_labels.txt missing"),
    "no classes": (lambda folder: (folder / LISTS[3]).unlink(), "classes.txt missing"),
    "no images.txt": (lambda folder: (folder / LISTS[0]).unlink(), "images.txt missing"),
    "image without label": (change(LISTS[1], "1 1\n", ""), "image_class_labels.txt image 1 images.txt"),
    "label without image": (change(LISTS[0], "1 001.Bird_0/Bird_0_0000.png\n", ""), "image 1 only"),
    "unknown class": (change(LISTS[1], "1 1\n", "1 7\n"), "class 7 classes.txt"),
    "class of letters": (change(LISTS[1], "1 1\n", "1 one\n"), "'one' number"),
    "split of 2": (change(LISTS[2], "1 1\n", "1 2\n"), "train_test_split.txt '2' 0 or 1"),
    "twice": (change(LISTS[0], "2 ", "1 "), "images.txt line 2 1 twice"),
    "line without value": (change(LISTS[3], "001.Bird_0", ""), "classes.txt line 1"),
    "bytes": (lambda folder: (folder / LISTS[0]).write_bytes(b"\xff\xfe" * 9), "images.txt text"),
    "missing photo": (
        lambda folder: (folder / "images/001.Bird_0/Bird_0_0000.png").unlink(),
        "Bird_0_0000.png No such",
    ),
    "path outside": (change(LISTS[0], "001.Bird_0/Bird_0_0000.png", "../classes.txt"), "../classes.txt images"),
    "no training image": (change(LISTS[2], " 1\n", " 0\n"), "no training images"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_cub200_layout_raises_naming_list(tmp_path: Path, case: str) -> None:
    damage, words = INVALID[case]
    folder = write_cub200(tmp_path / "cub200", classes=1, train=1, test=2)
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_dataset("cub200", tmp_path / "cub200")
    assert "\n" not in str(caught.value)
    assert not [word for word in words.split() if word not in str(caught.value)], caught.value
