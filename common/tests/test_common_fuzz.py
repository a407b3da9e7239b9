"""Damaged files of every format: one-line errors, or valid results, within bounds on memory and time.

100 mutations of each format, and 10,000 with ``-m fuzz``. (Pickles of CIFAR: test_common_untrusted. ``.dcz``: deep_compression.)
"""

import gzip
import hashlib
import io
import itertools
import json
import pickle
import shutil
import struct
import tarfile
import warnings
from collections.abc import Callable
from http.client import HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from tensorflow_files import lite_bytes, random_network, write_js
from torch import nn

from common.checkpoint import load_model, load_weights, read_checkpoint, save_model, write_half
from common.conversion import convert_file
from common.conversion.squeezenet import read_arrays
from common.conversion.tensorflow_lite import read_tensorflow_lite
from common.data.decode import read_image
from common.data.idx import read_idx
from common.data.labels import LabeledImages, read_labels
from common.downloads import RemoteFile
from common.fetch import fetch
from common.models import create_model
from common.runs import open_stage
from common.testing import check_mutations
from common.unpack import unpack_tar


class Format(NamedTuple):
    """Sources to mutate, how a mutation becomes a file, how the file is read, and which results are valid."""

    sources: list[bytes]
    read: Callable[[Path], Any]
    check: Callable[[Any], bool]
    write: Callable[[bytes], bytes] = lambda data: data
    name: str = "file"


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("lenet300_100", in_features=2).eval()


def is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def is_unchanged(model: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), network().state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def checkpoints(folder: Path) -> Format:
    save_model(folder / "m.safetensors", network(), normalize=((0.5,), (0.25,)), classes=["a"] * 10)
    return Format([(folder / "m.safetensors").read_bytes()], load_model, is_unchanged, name="m.safetensors")


def headers(folder: Path) -> Format:
    """The JSON header of a checkpoint, in a valid safetensors file."""
    save_model(
        folder / "m.safetensors", network(), normalize=((0.5,), (0.25,)), classes=["a"] * 10, extra={"a": [1, None]}
    )
    header, tensors = read_checkpoint(folder / "m.safetensors")
    header |= {"tied": [["fc1.bias", "fc1.bias"]], "buffers": [], "versions": {"": 1}}

    def write(data: bytes) -> bytes:
        return save(tensors, {"compression_papers": data.decode("utf-8", "replace")})

    return Format([json.dumps(header).encode()], load_model, is_finite, write, "m.safetensors")


def indices(folder: Path) -> Format:
    """The index of a checkpoint in several files."""
    save_model(folder / "m.safetensors", network())
    write_half(folder / "m.safetensors", folder / "h.safetensors", shard_bytes=100_000)
    index = folder / "h.safetensors.index.json"
    return Format([index.read_bytes()], load_model, is_finite, name=index.name)


def state_dicts(folder: Path) -> Format:
    content = {"state_dict": {f"module.{name}": tensor for name, tensor in network().state_dict().items()}, "epoch": 3}
    return _torch_files(folder, content)


def _torch_files(folder: Path, content: Any) -> Format:
    sources = []
    for zip_layout in (True, False):
        torch.save(content, folder / "m.pth", _use_new_zipfile_serialization=zip_layout)
        sources.append((folder / "m.pth").read_bytes())
    return Format(sources, lambda file: load_weights(network(), file), is_finite, name="m.pth")


def idx_files(folder: Path) -> Format:
    data = struct.pack(">IIII", 0x803, 5, 6, 7) + bytes(range(210))
    return Format([data], read_idx, lambda array: array.dtype == np.uint8 and 0 < array.size < 10**6, name="x-ubyte")


def gzip_files(folder: Path) -> Format:
    data = struct.pack(">IIII", 0x803, 5, 6, 7) + bytes(range(210))
    check = lambda array: array.shape == (5, 6, 7) and array.tobytes() == data[16:]  # noqa: E731
    return Format([gzip.compress(data)], read_idx, check, name="x-ubyte.gz")


def images(folder: Path) -> Format:
    rng, sources = np.random.default_rng(0), []
    color = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 2**16, (9, 12), dtype=np.uint16))
    for image, formats in ((color, ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")), (wide, ("PNG", "TIFF"))):
        for name in formats:
            content = io.BytesIO()
            image.save(content, name)
            sources.append(content.getvalue())
    return Format(
        sources, read_image, lambda image: image.mode == "RGB" and image.width * image.height <= 2**26, name="x.png"
    )


def run_files(folder: Path) -> Format:
    """metrics.json and config.json of a finished run."""
    options = {"arch": "lenet5", "dataset": "digits", "seed": 0, "target_macs": 0.5}
    stage = open_stage(folder / "run", "common", options)
    networks = {
        name: {"top1": 90.5, "macs": 1000, "latency_ms": {"1": 0.5}} for name in ("baseline", "after_cut", "compressed")
    }
    stage.finish({**networks, "file": "model.safetensors", "kept": {"macs": 0.5}})
    sources = [(folder / "run" / name).read_bytes() for name in ("metrics.json", "config.json")]
    texts = [source.decode() for source in sources]

    def read(file: Path) -> dict[str, Any]:
        """Open the run with one damaged file: the one that the mutation resembles more."""
        data = file.read_bytes()
        shutil.rmtree(folder / "again", ignore_errors=True)
        shutil.copytree(folder / "run", folder / "again")
        name = "config.json" if b'"options"' in data or b"environment" in data else "metrics.json"
        (folder / "again" / name).write_bytes(data)
        with mock.patch("common.runs.describe_environment", lambda device: {"device": "cpu", "commit": None}):
            return open_stage(folder / "again", "common", options).metrics()

    def check(record: dict[str, Any]) -> bool:
        return all(isinstance(record.get(name, {}), dict | None) for name in networks)

    return Format([text.encode() for text in texts], read, check, name="x.json")


def archives(folder: Path) -> Format:
    """A .tar.gz file, whose checksums are valid after a mutation."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("batches/a", "batches/ä/b", f"batches/{'c' * 150}"):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 700, {"comment": "x" * 50}
            tar.addfile(member, io.BytesIO(bytes(700)))

    def write(data: bytes) -> bytes:
        mended = bytearray(data)
        for start in range(0, len(data) - 512, 512):
            header = data[start : start + 512]
            if header[257:262] == b"ustar":
                total = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
                mended[start + 148 : start + 156] = b"%06o\0 " % total
        return gzip.compress(bytes(mended), 1)

    def read(file: Path) -> list[Path]:
        shutil.rmtree(folder / "batches", ignore_errors=True)
        unpack_tar(file, folder / "batches")
        return sorted(folder.rglob("*"))

    def check(found: list[Path]) -> bool:
        return not any(path.is_symlink() or path.is_fifo() or path.stat().st_size > 10**5 for path in found)

    return Format([raw.getvalue()], read, check, write, "x.tar.gz")


def lite_files(folder: Path) -> Format:
    """TensorFlow Lite: tables whose offsets lead anywhere, with weights of all types."""
    pytest.importorskip("tflite")
    model = random_network("mobilenet_v1", classes=2, width_mult=1 / 16, tensorflow=True, batch_norm=False)
    sources = [lite_bytes(model, quantized=kind, pads=pads) for kind, pads in (("tensor", False), ("channel", True))]
    sources.append(lite_bytes(model))
    check = lambda found: all(o.weight is None or bool(o.weight.isfinite().all()) for o in found.operations)  # noqa: E731
    return Format(sources, read_tensorflow_lite, check, name="m.tflite")


def js_models(folder: Path) -> Format:
    """model.json of TensorFlow.js, next to intact shards."""
    write_js(folder, random_network("mobilenet_v1", classes=2, width_mult=1 / 16, tensorflow=True))
    source = (folder / "model.json").read_bytes()
    return Format([source], lambda file: convert_file(file).model, is_finite, name="model.json")


def array_pickles(folder: Path) -> Format:
    arrays = {name: [np.ones((2, 3, 4), dtype), np.zeros(3, dtype)] for name, dtype in (("a", "<f4"), ("b", ">f8"))}
    sources = [pickle.dumps(arrays, protocol=protocol) for protocol in (2, 3, 4)]
    return Format(
        sources,
        read_arrays,
        lambda found: all(tensor.numel() < 100 for tensors in found.values() for tensor in tensors),
        name="m.pkl",
    )


def label_files(folder: Path) -> Format:
    """CSV files with the classes of images."""
    for number in range(4):
        Image.new("RGB", (2, 2)).save(folder / f"{number}.png")
    sources = [
        b'file,label,author\n0.png,2,"a, b"\n1.png,0,c\n2.png,1,d\n3,2,e\n',
        "file,label\n0.png,dog\n1.png,kätzchen\n2.png,dog\n3.png,fish\n".encode(),
    ]

    def read(file: Path) -> LabeledImages:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on images that are not listed
            return read_labels(folder, file)

    def check(found: LabeledImages) -> bool:
        listing = found.listing
        return 2 <= len(listing) <= 4 and 0 <= listing.labels.min() <= listing.labels.max() < len(listing.classes)

    return Format(sources, read, check, name="labels.csv")


def server_answers(folder: Path) -> Format:
    """Answers of a server to a download of x.bin."""
    content = bytes(range(256)) * 10
    length, part = b"Content-Length: 2560\r\n", b"Content-Range: bytes 0-2559/2560\r\n"
    chunks = (
        b"Transfer-Encoding: chunked\r\n\r\n100\r\n" + content[:256] + b"\r\n900\r\n" + content[256:] + b"\r\n0\r\n\r\n"
    )
    sources = [
        b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + content,
        b"HTTP/1.1 206 Partial Content\r\n" + part + length + b"\r\n" + content,
        b"HTTP/1.1 200 OK\r\n" + chunks,
    ]
    sizes = itertools.cycle([len(content), None])

    def read(file: Path) -> bytes:
        shutil.rmtree(folder / "to", ignore_errors=True)
        remote = RemoteFile("http://127.0.0.1/x.bin", hashlib.sha256(content).hexdigest(), next(sizes), "x.bin")
        opener = SimpleNamespace(open=lambda request, timeout: answer(request.full_url, file.read_bytes()))
        with mock.patch("common.fetch._opener", lambda: opener), mock.patch("common.fetch.os.fsync"):
            return fetch("x", folder / "to", files={"x": (remote,)}, pause=0)[0].read_bytes()

    def answer(url: str, raw: bytes) -> HTTPResponse:
        response = HTTPResponse(SimpleNamespace(makefile=lambda mode: io.BytesIO(raw)))  # type: ignore[arg-type]
        response.begin()
        if not 200 <= response.status < 300:
            del response.headers["Location"], response.headers["Retry-After"]
            raise HTTPError(url, response.status, response.reason, response.headers, response)
        return response

    return Format(sources, read, lambda found: found == content, name="answer")


FORMATS = {
    ".safetensors": checkpoints,
    "header of .safetensors": headers,
    "index of .safetensors": indices,
    ".pth": state_dicts,
    "idx": idx_files,
    "gzip": gzip_files,
    "images": images,
    "JSON of runs": run_files,
    "tar": archives,
    "answers of a server": server_answers,
    "TensorFlow Lite": lite_files,
    "TensorFlow.js": js_models,
    "pickle of arrays": array_pickles,
    "labels": label_files,
}


def fuzz(folder: Path, name: str, number: int) -> None:
    made = FORMATS[name](folder)
    valid = check_mutations(folder / made.name, made.write, made.sources, number, made.read, made.check)
    assert valid < 0.95 * number  # most mutations damage the file


@pytest.mark.parametrize("name", FORMATS)
def test_format_survives_100_mutations(tmp_path, name):
    fuzz(tmp_path, name, 100)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMATS)
def test_format_survives_10_000_mutations(tmp_path, name):
    fuzz(tmp_path, name, 10_000)


def test_intact_files_are_valid(tmp_path):
    for name, make in FORMATS.items():
        if make is lite_files and find_spec("tflite") is None:
            continue
        folder = tmp_path / name
        folder.mkdir()
        made = make(folder)
        for source in made.sources:
            (folder / made.name).write_bytes(made.write(source))
            assert made.check(made.read(folder / made.name)), name
