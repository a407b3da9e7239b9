"""Readers of all data sets, on small generated files and, if available next to the project, on the real ones."""

import gzip
import io
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import DataBundle, FolderImages, MemoryImages, load_dataset, registry
from common.data.cifar import CIFAR10_CLASSES, LAYOUTS, load_plain_pickle
from common.data.idx import read_idx
from common.data.split import stratified_split
from common.errors import UserError
from common.testing import assert_bounded
from common.testing.data_files import idx_bytes, python2_pickle, write_cifar_python, write_idx_set

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPRESSION_PAPERS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def write_image_folder(
    folder: Path, classes: list[str], count: int = 3, size: tuple[int, int] = (32, 32), ending="png"
) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{ending}")


def write_folder_set(root: Path, classes: list[str], test: str = "test", **options) -> Path:
    write_image_folder(root / "train", classes, **options)
    write_image_folder(root / test, classes, **options)
    return root


def python3_pickle(content: dict) -> bytes:
    return pickle.dumps(content, protocol=2)


# --- digits, splits, the bundle


def test_digits_equal_scikit_learn_data_and_split():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_dataset("digits")
    assert (len(data.train), len(data.test), data.num_classes) == (1297, 500, 10)
    assert data.input_shape == data.train.image_shape == (3, 32, 32)
    assert data.classes == list("0123456789")
    source = load_digits()
    centers = ((np.arange(32) + 0.5) / 4 - 0.5).clip(0, 7)  # of the 32 pixels, on the grid of 8
    weights = (1 - abs(centers[:, None] - np.arange(8))).clip(0)  # bilinear
    train, test = train_test_split(np.arange(1797), test_size=500, stratify=source.target, random_state=0)
    for part, chosen in ((data.train, train), (data.test, test)):
        assert part.labels.tolist() == source.target[chosen].tolist()
        assert torch.equal(part.images[:, 0], part.images[:, 2])
        resized = weights @ (source.images[chosen] * (255 / 16)) @ weights.T
        assert abs(part.images[:, 0].numpy() - resized).max() <= 0.5 + 1e-4  # rounded to integers
    assert not data.train.flip and data.fingerprint == load_dataset("digits").fingerprint
    mean, std = data.train.measure_mean_std()
    assert (round(mean[0], 4), round(std[0], 4)) == (data.mean[0], data.std[0])


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("counts", "held"), [((10, 10, 10), 9), ((50, 3, 17), 20), ((4, 4, 4, 4, 5), 10), ((2, 2), 2)])
def test_stratified_split_equals_scikit_learn(counts, held, seed):
    from sklearn.model_selection import train_test_split

    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3 - 1, counts))
    expected = train_test_split(np.arange(len(labels)), test_size=held, stratify=labels, random_state=seed)
    for found, reference in zip(stratified_split(torch.tensor(labels), held, seed), expected, strict=True):
        assert found.tolist() == reference.tolist()


def test_holdout_splits_training_images_reproducibly():
    data = load_dataset("digits")
    held = data.holdout(0.2, seed=3)
    assert len(held.test) == round(0.2 * 1297) and len(held.train) + len(held.test) == 1297
    rows = {image.numpy().tobytes() for image in data.train.images}
    parts = [{image.numpy().tobytes() for image in part.images} for part in (held.train, held.test)]
    assert parts[0] | parts[1] == rows
    fractions = torch.bincount(held.test.labels) / torch.bincount(data.train.labels)
    assert (fractions - 0.2).abs().max() < 0.01
    assert torch.equal(held.test.images, data.holdout(0.2, seed=3).test.images)
    assert not torch.equal(held.test.labels, data.holdout(0.2, seed=4).test.labels)
    fingerprints = {
        data.fingerprint,
        held.fingerprint,
        data.holdout(0.2, seed=4).fingerprint,
        data.holdout(0.1, 3).fingerprint,
    }
    assert len(fingerprints) == 4
    for fraction in (0, 1, -0.1, float("nan"), 0.0001):
        with pytest.raises(UserError):
            data.holdout(fraction)


def test_normalization_is_selected_by_name_or_value():
    data = load_dataset("digits", normalize="cifar10")
    assert data.mean == (0.4914, 0.4822, 0.4465) and data.test.std == (0.2023, 0.1994, 0.2010)
    other = data.with_normalization((0.5,), (0.25,))
    assert other.mean == (0.5,) * 3 and other.fingerprint == data.fingerprint
    (batch,) = other.test.subset([4, 2]).batches(2)
    assert torch.allclose(batch.images, (other.test.images[[4, 2]] / 255 - 0.5) / 0.25, atol=1e-6)
    assert batch.labels.tolist() == other.test.labels[[4, 2]].tolist() and batch.indices.tolist() == [0, 1]
    nan, inf = float("nan"), float("inf")
    pairs = [
        ((0.5, 0.5), (1, 1)),
        ((0.5,), (0.0,)),
        ((0.5,), (nan,)),
        ((nan,), (1,)),
        ((0.5,), (inf,)),
        ((0.5,), (1e-300,)),
    ]
    pairs += [("0.5", (1,)), (0.5, 0.5), (("a",), (1,)), (None, (1,)), ((10**400,), (1,))]
    for mean, std in pairs:
        with pytest.raises(UserError, match="normalization"):
            data.with_normalization(mean, std)


# --- mnist


@pytest.mark.parametrize("inner", ["MNIST/raw", "raw", ".", "mnist/MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_in_all_usual_folders(tmp_path, inner, packed):
    arrays = (
        write_idx_set(tmp_path / "there" / inner, packed) if inner != "." else write_idx_set(tmp_path / "there", packed)
    )
    data = load_dataset("mnist", tmp_path / "there")
    assert np.array_equal(data.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert data.test.labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert data.input_shape == (1, 28, 28) and data.mean == (0.1307,) and not data.train.flip


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_under_names_of_kaggle(tmp_path, inside, packed):
    arrays = write_idx_set(tmp_path / "m", packed)
    for path in sorted((tmp_path / "m").iterdir()):
        name = path.name.replace("-idx", ".idx") if not inside else path.name.removesuffix(".gz")
        folder = tmp_path / "k" / name if inside else tmp_path / "k"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / (path.name if inside else name))
    data = load_dataset("mnist", tmp_path / "k")
    assert np.array_equal(data.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert data.test.labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


HUGE_IDX = {
    "0 x huge": struct.pack(">IIII", 0x803, 0, 2**32 - 1, 2**32 - 1),
    "more than the limit": struct.pack(">IIII", 0x803, 2**16, 2**16, 28),
    "exabytes": struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 28),
}


@pytest.mark.parametrize("case", HUGE_IDX)
def test_unbounded_idx_header_raises_before_data_are_read(tmp_path, case):
    (tmp_path / "x").write_bytes(HUGE_IDX[case])
    with assert_bounded(), pytest.raises(UserError, match="the header specifies"):
        read_idx(tmp_path / "x")


def test_gzip_bomb_raises_without_unpacking_it(tmp_path):
    zeros = gzip.compress(bytes(2**26), 9) * 80  # 5 GiB
    header = gzip.compress(struct.pack(">III", 0x802, 3, 4))
    for start, message in ((b"", "element type 0x00"), (header, "more bytes of data, but the header specifies 12")):
        (tmp_path / "x.gz").write_bytes(start + zeros)
        with assert_bounded(memory=64 * 2**20, seconds=20), pytest.raises(UserError, match=message):
            read_idx(tmp_path / "x.gz")


def test_fashion_mnist_has_own_folder_and_class_names_and_flips(tmp_path):
    write_idx_set(tmp_path / "FashionMNIST" / "raw", packed=True)
    data = load_dataset("fashion-mnist", tmp_path)
    assert data.classes[0] == "T-shirt/top" and data.num_classes == 10 and data.train.flip


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real MNIST is not next to the project")
def test_real_mnist_has_known_sizes_and_class_counts():
    data = load_dataset("mnist", SHARED / "mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    counts = torch.bincount(data.train.labels).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    (mean,), (std,) = data.train.measure_mean_std()
    assert (round(mean, 4), round(std, 4)) == (data.mean[0], data.std[0]) == (0.1307, 0.3081)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
IDX_DAMAGE = {
    "wrong magic": (IMAGES, lambda raw: b"\x01" + raw[1:], "wrong magic number"),
    "floats": (IMAGES, lambda raw: raw[:2] + b"\x0d" + raw[3:], "0x0d"),
    "truncated": (IMAGES, lambda raw: raw[:-5], "header specifies"),
    "too long": (IMAGES, lambda raw: raw + b"x", "header specifies"),
    "short header": (IMAGES, lambda raw: raw[:9], "header"),
    "empty": (IMAGES, lambda raw: b"", "not an idx file"),
    "labels as images": (IMAGES, lambda raw: idx_bytes(np.zeros(40, np.uint8)), "expected images"),
    "20 x 20": (IMAGES, lambda raw: idx_bytes(np.zeros((40, 20, 20), np.uint8)), "expected images"),
    "fewer labels": (LABELS, lambda raw: idx_bytes(np.zeros(39, np.uint8)), "39"),
    "label 10": (LABELS, lambda raw: idx_bytes(np.full(40, 10, np.uint8)), "label 10 is out of range 0 to 9"),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_damaged_idx_file_raises_naming_file(tmp_path, damage):
    name, change, message = IDX_DAMAGE[damage]
    write_idx_set(tmp_path / "raw")
    path = tmp_path / "raw" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load_dataset("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_truncated_gzip_file_raises_naming_file(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((9, 9), np.uint8)))[:-9])
    with pytest.raises(UserError, match=r"x\.gz: damaged gzip file"):
        read_idx(path)


# --- cifar


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("pickled", [python2_pickle, python3_pickle])
def test_torchvision_cifar_layout_is_read(tmp_path, name, pickled):
    arrays = write_cifar_python(tmp_path, name, pickled)
    data = load_dataset(name, tmp_path)
    assert np.array_equal(data.train.images.numpy().reshape(-1, 3072), np.concatenate(arrays[:-1]))
    assert np.array_equal(data.test.images.numpy().reshape(-1, 3072), arrays[-1])
    assert data.test.labels.tolist() == [number % data.num_classes for number in range(20)]
    assert data.classes[1] == ("automobile" if name == "cifar10" else "class1") and data.input_shape == (3, 32, 32)
    assert data.fingerprint == load_dataset(name, tmp_path / LAYOUTS[name].python_folder).fingerprint


def test_current_numpy_pickles_are_read(tmp_path):
    path = tmp_path / "batch"
    for protocol in range(5):  # protocols used by archives of these data
        path.write_bytes(pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}, protocol=protocol))
        content = load_plain_pickle(path)
        assert content["data"].tolist() == list(range(6)) and content["labels"] == [1, 2]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_binary_cifar_layout_is_read(tmp_path, name):
    layout = LAYOUTS[name]
    folder = tmp_path / layout.binary_folder
    folder.mkdir()
    rows = RANDOM.integers(0, 10, (6, layout.label_bytes + 3072), dtype=np.uint8)
    for file in (*layout.binary_train_files, layout.binary_test_file):
        rows.tofile(folder / file)
    (folder / layout.binary_names_file).write_text("\n".join(f"class{i}" for i in range(layout.num_classes)) + "\n\n")
    data = load_dataset(name, tmp_path)
    assert data.test.labels.tolist() == rows[:, layout.label_bytes - 1].tolist()
    assert np.array_equal(data.test.images.numpy().reshape(6, -1), rows[:, layout.label_bytes :])


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickle_with_code_raises_and_is_not_executed(tmp_path):
    write_cifar_python(tmp_path)
    marker = tmp_path / "was run"
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps({b"data": Evil(marker)}, protocol=protocol))
        with pytest.raises(UserError, match=r"data_batch_3: not a readable CIFAR batch \(it requests \w+\.mkdir\)"):
            load_dataset("cifar10", tmp_path)
    assert not marker.exists()


def test_unpickler_rejects_dotted_names_codecs_and_extensions(tmp_path):
    path = tmp_path / "batch"
    hostile = [
        b"cnumpy\nndarray.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.ctypeslib\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00rottR.",
        b"Pid\n.",
        b"\x82\x01.",
        b"",
        b"\x80\x02}(U\x04data",
    ]
    for raw in hostile:
        path.write_bytes(raw)
        with pytest.raises(UserError, match="not a readable CIFAR batch"):
            load_plain_pickle(path)


CIFAR_DAMAGE = {
    "truncated": (lambda raw: raw[:-100], "not a readable CIFAR batch"),
    "a list": (lambda raw: pickle.dumps([1]), "no array 'data'"),
    "floats": (lambda raw: pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}), "no array 'data'"),
    "objects": (lambda raw: pickle.dumps({"data": np.array([None] * 2), "labels": [0, 1]}), "no array 'data'"),
    "wrong width": (
        lambda raw: pickle.dumps({"data": np.zeros((2, 99), np.uint8), "labels": [0, 1]}),
        "no array 'data'",
    ),
    "no labels": (lambda raw: pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "no list 'labels'"),
    "label 10": (
        lambda raw: python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}),
        "label 10 is",
    ),
    "label -1": (
        lambda raw: python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 1]}),
        "label -1 is",
    ),
    "text label": (lambda raw: python2_pickle({b"data": np.zeros((1, 3072), np.uint8), b"labels": [b"x"]}), "integers"),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGE)
def test_damaged_cifar_batch_raises_naming_file(tmp_path, damage):
    change, message = CIFAR_DAMAGE[damage]
    write_cifar_python(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load_dataset("cifar10", tmp_path)
    assert str(path) in str(caught.value)


def test_missing_and_truncated_batches_raise_naming_file(tmp_path):
    write_cifar_python(tmp_path / "a")
    (tmp_path / "a" / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4 is missing"):
        load_dataset("cifar10", tmp_path / "a")
    folder = tmp_path / "b" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file in (*LAYOUTS["cifar10"].binary_train_files, "test_batch.bin"):
        (folder / file).write_bytes(b"\0" * 3000)
    with pytest.raises(UserError, match=r"data_batch_1\.bin: 3000 bytes are not a multiple of the record size 3073"):
        load_dataset("cifar10", tmp_path / "b")


# --- class folders in memory


def test_cifar_class_folders_keep_names_order_and_pixels(tmp_path):
    write_folder_set(tmp_path / "c", list(reversed(CIFAR10_CLASSES)))
    data = load_dataset("cifar10", tmp_path / "c")
    assert data.classes == CIFAR10_CLASSES and data.train.labels.tolist() == np.repeat(np.arange(10), 3).tolist()
    expected = np.asarray(Image.open(tmp_path / "c" / "train" / "cat" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[3 * 3 + 1].numpy(), expected)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) and data.train.flip


@pytest.mark.skipif(
    not (SHARED / "cifar10" / "test.zip").is_file(), reason="the real CIFAR-10 is not next to the project"
)
def test_real_cifar_images_are_read(tmp_path):
    with zipfile.ZipFile(SHARED / "cifar10" / "test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert len(names) == 10_000
        chosen = [name for number, name in enumerate(names) if number % 1000 < 4]
        archive.extractall(tmp_path / "c", chosen)
        first = np.asarray(Image.open(io.BytesIO(archive.read(chosen[0]))))
    os.symlink(tmp_path / "c" / "test", tmp_path / "c" / "train")
    data = load_dataset("cifar10", tmp_path / "c")
    assert data.classes == CIFAR10_CLASSES and torch.bincount(data.test.labels).tolist() == [4] * 10
    assert np.array_equal(data.test.images[0].permute(1, 2, 0).numpy(), first)


def test_cache_is_reused_until_damage_or_change(tmp_path, caplog, monkeypatch):
    root = write_folder_set(tmp_path / "c", ["a", "b"], size=(8, 8))
    load_dataset(f"folder:{root}")
    assert not (tmp_path / "cache").exists()  # few images are not cached
    monkeypatch.setattr(registry, "CACHED_FROM", 1)
    first = load_dataset(f"folder:{root}")
    files = sorted((tmp_path / "cache" / "compression-papers").iterdir())
    assert len(files) == 2 and all(path.suffix == ".safetensors" for path in files)

    def no_decoding(listing):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "decode_all", no_decoding)
        assert load_dataset(f"folder:{root}").fingerprint == first.fingerprint
    raw = files[0].read_bytes()
    for damage in (raw[:-7], raw[:20], b"", raw[:-1] + bytes([raw[-1] ^ 1]), b"\xff" * 64):
        files[0].write_bytes(damage)
        caplog.clear()
        assert load_dataset(f"folder:{root}").fingerprint == first.fingerprint
        assert "damaged" in caplog.text and files[0].read_bytes() == raw
    # replace an image by one of the same size on disk
    image = root / "train" / "a" / "0.png"
    pixels = np.asarray(Image.open(image)).copy()
    Image.fromarray(255 - pixels).save(image)
    os.utime(image, ns=(1, 1))
    assert load_dataset(f"folder:{root}").fingerprint != first.fingerprint


def test_unwritable_cache_logs_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    monkeypatch.setattr(registry, "CACHED_FROM", 1)
    root = write_folder_set(tmp_path / "c", ["a", "b"], size=(8, 8))
    assert len(load_dataset(f"folder:{root}").train) == 6
    assert "decoded images cannot be cached" in caplog.text


def test_image_folder_streams_large_or_mixed_images_only(tmp_path):
    small = load_dataset(f"folder:{write_folder_set(tmp_path / 's', ['x', 'y'], 'val', size=(9, 12), ending='bmp')}")
    assert isinstance(small.train, MemoryImages) and small.input_shape == (3, 9, 12) and small.num_classes == 2
    large = load_dataset(f"folder:{write_folder_set(tmp_path / 'l', ['x', 'y'], size=(65, 20), ending='jpg')}")
    assert isinstance(large.train, FolderImages) and large.input_shape == (3, 224, 224)
    root = write_folder_set(tmp_path / "m", ["x", "y"])
    for number, path in enumerate(sorted(root.rglob("*.png"))[::2]):
        Image.new("RGB", (20 + number, 20)).save(path)
    with pytest.warns(
        UserWarning, match=r"m: images of 7 sizes, e\.g\. 32 x 32 pixels \(6 of 12\); all are resized to 224"
    ):
        assert isinstance(load_dataset(f"folder:{root}").train, FolderImages)


@pytest.mark.parametrize("odd", [["test/y/2.png"], ["train/x/0.png", "train/y/1.png"]])
def test_small_images_with_few_of_another_size_raise_naming_one(tmp_path, odd):
    root = write_folder_set(tmp_path / "m", ["x", "y"])
    for path in odd:  # the first image of all, too
        Image.new("RGB", (90, 32)).save(root / path)
    with pytest.raises(UserError, match=rf"m: {len(odd)} of 12 images are not 32 x 32 pixels, e\.g\. .*{odd[0]}"):
        load_dataset(f"folder:{root}")


def test_many_small_images_warn_that_they_are_enlarged(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "MEMORY_BYTES", 12 * 3 * 8 * 8 - 1)
    root = write_folder_set(tmp_path / "m", ["x", "y"], size=(8, 8))
    with pytest.warns(
        UserWarning, match="12 images of 8 x 8 pixels do not fit in memory; they are resized to 224 x 224"
    ):
        assert load_dataset(f"folder:{root}").input_shape == (3, 224, 224)


def test_image_folder_with_test_and_val_uses_folder_with_classes(tmp_path):
    root = write_folder_set(tmp_path / "c", ["x", "y"], "val", size=(8, 8))
    (root / "test").mkdir()
    with pytest.warns(
        UserWarning, match="test: 0 of the 2 classes of .*train have a folder there; .*val is used instead"
    ):
        assert len(load_dataset(f"folder:{root}").test) == 6
    write_image_folder(root / "test", ["images"], count=4, size=(8, 8))  # unlabeled
    with pytest.warns(UserWarning, match="test: 0 of the 2 classes"):
        assert len(load_dataset(f"folder:{root}").test) == 6
    shutil.rmtree(root / "test" / "images")
    write_image_folder(root / "test", ["x", "y"], count=1, size=(8, 8))
    assert len(load_dataset(f"folder:{root}").test) == 2


def break_links(root):
    write_folder_set(root, ["a", "b"])
    for number in range(2):
        (root / "test" / "a" / f"{number}.png").unlink()
        (root / "test" / "a" / f"{number}.png").symlink_to(f"/nowhere/{number}.png")


def break_class_link(root):
    (write_folder_set(root, ["a", "b"]) / "train" / "c").symlink_to("/nowhere")


def link_to_itself(root):
    path = write_folder_set(root, ["a", "b"]) / "test" / "b" / "7.png"
    path.symlink_to(path)


def make_pipe(root):
    os.mkfifo(write_folder_set(root, ["a", "b"]) / "train" / "a" / "x.png")


def link_to_parent(root):
    (write_folder_set(root, ["a", "b"]) / "train" / "a" / "more").symlink_to("..")


def name_in_latin1(root):
    write_folder_set(root, ["a", "b"])
    for split in ("train", "test"):
        os.rename(root / split / "b", os.fsencode(root / split) + b"/caf\xe9")


LISTING_FAULTS = {
    "links to nowhere": (
        break_links,
        r"test: 2 of 6 images are links to missing files, .*e\.g\. .*test/a/0\.png; restore",
    ),
    "class link to nowhere": (break_class_link, r"train: 1 of 7 images are links to missing files, .*train/c; restore"),
    "link to itself": (link_to_itself, r"test: 1 of 7 images are links to missing files, .*b/7\.png; restore"),
    "pipe": (make_pipe, r"train: 1 of 7 images are .* not files, e\.g\. .*a/x\.png"),
    "link to parent": (link_to_parent, r"a/more/a: a link to a folder that contains it|a/more: a link to a folder"),
    "latin-1": (name_in_latin1, r"the names of 1 of 2 class folders are not UTF-8, e\.g\. 'caf\\udce9'; rename"),
    "one class": (
        lambda root: write_folder_set(root, ["cat"]),
        "only one class folder, 'cat'; .* at least two classes",
    ),
}


@pytest.mark.parametrize("case", LISTING_FAULTS)
def test_faulty_image_folder_raises_when_listed(tmp_path, case):
    prepare, message = LISTING_FAULTS[case]
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(f"folder:{tmp_path / 'root'}")
    str(caught.value).encode()  # can be printed


def test_hidden_entries_are_neither_classes_nor_images(tmp_path):
    root = write_folder_set(tmp_path / "c", ["a", "b"], size=(8, 8))
    expected = load_dataset(f"folder:{root}").fingerprint
    write_image_folder(
        root / "train", [".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints", "a/__MACOSX", "b/@eaDir"]
    )
    for name in ("._0.png", ".DS_Store", ".hidden.png"):
        (root / "train" / "a" / name).write_bytes(b"no image")
        (root / "test" / name).write_bytes(b"no image")
    (root / "test" / "a" / ".link.png").symlink_to("/nowhere")
    data = load_dataset(f"folder:{root}")
    assert data.classes == ["a", "b"] and len(data.train) == 6 and data.fingerprint == expected


def test_images_that_are_not_read_are_counted(tmp_path):
    root = write_folder_set(tmp_path / "c", ["a", "b"], size=(8, 8))
    for name in ("a/0.gif", "b/1.GIF", "b/2.heic", "b/notes.txt"):
        (root / "train" / name).write_bytes(b"")
    Image.new("RGB", (8, 8)).save(root / "test" / "loose.png")
    with pytest.warns(UserWarning) as caught:
        load_dataset(f"folder:{root}")
    first, second = (str(warning.message) for warning in caught)
    assert first.endswith("train: files that are not read: 2 .gif, 1 .heic; convert images to PNG or JPEG")
    assert second.endswith("test: 1 images are in no class folder and are not read")


def test_numeric_class_folders_are_reported_and_sorted_by_number_on_request(tmp_path):
    root = write_folder_set(tmp_path / "c", [str(number) for number in range(5, 15)], size=(8, 8))
    with pytest.warns(
        UserWarning, match=r"10 class folders are numbered, sorted as text \(10, 11, 12, .*numeric-folder:PATH"
    ):
        text = load_dataset(f"folder:{root}")
    numeric = load_dataset(f"numeric-folder:{root}")
    assert text.classes[0] == "10" and numeric.classes == [str(number) for number in range(5, 15)]
    assert numeric.fingerprint != text.fingerprint and sorted(numeric.train.labels) == sorted(text.train.labels)
    names = [numeric.classes[label] for label in numeric.train.labels]
    assert names == [text.classes[label] for label in text.train.labels]
    with pytest.raises(UserError, match="do not differ in one number alone"):
        load_dataset(f"numeric-folder:{write_folder_set(tmp_path / 'd', ['1', 'b'])}")


@pytest.mark.parametrize("names", [[f"class{i}" for i in range(5, 15)], [str(i) for i in range(-5, 5)]])
def test_numbers_in_names_of_class_folders_are_reported(tmp_path, names):
    root = write_folder_set(tmp_path / "c", names, size=(8, 8))
    with pytest.warns(UserWarning, match="10 class folders are numbered, sorted as text"):
        load_dataset(f"folder:{root}")
    assert load_dataset(f"numeric-folder:{root}").classes == names


def test_measured_normalization_gives_zero_mean_and_unit_std(tmp_path):
    data = load_dataset(f"folder:{write_folder_set(tmp_path / 'c', ['x', 'y'], size=(8, 8))}", normalize="dataset")
    images = torch.cat([batch.images for batch in data.train.batches(4)])
    assert images.mean((0, 2, 3)).abs().max() < 1e-6
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_fingerprint_depends_on_pixels_labels_and_order():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    sets = [
        MemoryImages(images, torch.tensor([0, 1])),
        MemoryImages(images, torch.tensor([1, 0])),
        MemoryImages(images.flip(0), torch.tensor([0, 1])),
        MemoryImages(images.view(2, 3, 2, 8), torch.tensor([0, 1])),
        MemoryImages(images ^ 1, torch.tensor([0, 1])),
    ]
    assert len({image_set.fingerprint() for image_set in sets}) == 5
    assert sets[0].fingerprint() == sets[0].normalized((0.0,), (1.0,)).fingerprint()


# --- invalid data: one line that names the folder and the remedy


def empty_class(root):
    (write_folder_set(root, ["a", "b"]) / "train" / "c").mkdir()
    (root / "test" / "c").mkdir()


def no_classes(root):
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / split / "loose.png")


def other_classes(root):
    write_folder_set(root, ["a", "b"])
    write_image_folder(root / "test", ["zebra"])


def truncated_image(root):
    path = write_folder_set(root, ["a", "b"]) / "test" / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:200])


def not_an_image(root):
    (write_folder_set(root, ["a", "b"]) / "train" / "a" / "1.png").write_text("hello")


def mixed_sizes(root):
    path = write_folder_set(root, CIFAR10_CLASSES) / "train" / "dog" / "2.png"
    Image.new("RGB", (31, 32)).save(path)


def other_test_size(root):
    write_image_folder(root / "train", CIFAR10_CLASSES)
    write_image_folder(root / "test", CIFAR10_CLASSES, size=(16, 16))


def file_instead(root):
    root.write_text("not a folder")


INVALID_DATA = {
    "unknown": (
        "nope",
        lambda root: None,
        "known: digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, cub200, folder:PATH",
    ),
    "missing folder": ("mnist", lambda root: None, "python -m common.fetch mnist .*--dataset-dir"),
    "missing fashion": (
        "fashion-mnist",
        lambda root: root.mkdir(),
        "python -m common.fetch fashion-mnist .*--dataset-dir",
    ),
    "missing cifar10": ("cifar10", lambda root: root.mkdir(), "python -m common.fetch cifar10 .*--dataset-dir"),
    "missing cifar100": ("cifar100", lambda root: root.mkdir(), "python -m common.fetch cifar100 .*--dataset-dir"),
    "missing cub200": ("cub200", lambda root: root.mkdir(), "python -m common.fetch cub200 .*--dataset-dir"),
    "missing imagenet": ("imagenet", lambda root: root.mkdir(), "owners, .*--dataset-dir"),
    "a file as folder": ("cifar10", file_instead, "python -m common.fetch cifar10"),
    "no such path": ("folder:{root}", lambda root: None, "no such folder"),
    "no train": ("folder:{root}", lambda root: root.mkdir(), "no folders train and test"),
    "empty class": ("folder:{root}", empty_class, "train/c: class folder without images"),
    "no classes": ("folder:{root}", no_classes, "no class folders"),
    "imagenet val unsorted": (
        "imagenet",
        lambda root: (no_classes(root), (root / "test").rename(root / "val")),
        "no class",
    ),
    "other classes": ("folder:{root}", other_classes, "'zebra' is not in"),
    "truncated image": ("folder:{root}", truncated_image, r"test/b/1\.png: truncated or unreadable"),
    "not an image": ("folder:{root}", not_an_image, r"train/a/1\.png: truncated or unreadable"),
    "mixed sizes": ("cifar10", mixed_sizes, r"dog/2\.png: 31 x 32 pixels"),
    "test size differs": ("cifar10", other_test_size, r"different sizes, \(3, 32, 32\) and \(3, 16, 16\)"),
    "two classes": (
        "cifar10",
        lambda root: write_folder_set(root, ["a", "b"]),
        r"2 class folders with 32 x 32 images, but cifar10 has 10 with",
    ),
}


@pytest.mark.parametrize("case", INVALID_DATA)
def test_invalid_data_raises_one_line_naming_folder(tmp_path, case):
    name, prepare, message = INVALID_DATA[case]
    root = tmp_path / "root"
    prepare(root)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(name.format(root=root), root)
    assert "\n" not in str(caught.value)
    assert case == "unknown" or str(root) in str(caught.value)


def test_packed_archives_are_named(tmp_path):
    (tmp_path / "train-0.zip").write_text("")
    with pytest.raises(
        UserError, match=r"unpack the archives there \(train-0\.zip\), or `python -m common\.fetch cifar10"
    ):
        load_dataset("cifar10", tmp_path)


def test_unknown_and_incompatible_normalizations_raise(tmp_path):
    with pytest.raises(UserError, match="known: imagenet, cifar10, half, none, dataset"):
        load_dataset("digits", normalize="zscore")
    write_idx_set(tmp_path / "raw")
    with pytest.raises(UserError, match="1 channel"):
        load_dataset("mnist", tmp_path, normalize="imagenet")


def test_default_folder_is_used_without_root(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--to data/mnist"):
        load_dataset("mnist")
    write_idx_set(tmp_path / "elsewhere" / "mnist")
    monkeypatch.setenv("COMPRESSION_PAPERS_DATA", str(tmp_path / "elsewhere"))
    assert isinstance(load_dataset("mnist"), DataBundle)
