"""Hostile files of every format, and the answers of the commands that read them: ``python -m common.paper.tables --hostile-files``."""

import contextlib
import gzip
import io
import json
import os
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from common import evaluate
from common.atomic import write_json
from common.checkpoint import read_checkpoint, save_model
from common.models import create_model
from common.runs import describe_environment

ARCH = "resnet20"
COMMAND = "python -m common.paper.tables --hostile-files"
Case = tuple[str, Callable[[Path], list[str]]]  # file, and a function that writes it and returns the arguments


def cases() -> dict[str, Case]:
    """Return {what is wrong: (name of the file, function from a folder to the arguments of common.evaluate)}."""
    found: dict[str, Case] = {}
    for name, content in _state_dicts().items():
        found[name] = ("weights.pth", _with_weights("weights.pth", content))
    for name, data in _files().items():
        found[name] = ("weights.pth", _with_weights("weights.pth", data))
    for name, change in _headers().items():
        found[name] = ("model.safetensors", _with_header(change))
    for name, damage in _tensors().items():
        found[name] = ("model.safetensors", _with_tensors(damage))
    for name, text in _indices().items():
        found[name] = ("model.safetensors.index.json", _with_weights("model.safetensors.index.json", text))
    for name, (file, raw) in _idx_files().items():
        found[name] = (file, _with_mnist(file, raw))
    for name, write in _images().items():
        found[name] = ("0.png", _with_image(write))
    found["a link to a folder above it"] = ("test/a", _with_loop)
    return found


def answer(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Return the exit status and the last line on standard error of common.evaluate, without the folder's name."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        status = evaluate.main([*arguments, "--no-latency"])
    lines = error.getvalue().strip().splitlines() or [""]
    return status, lines[-1].replace(f"{folder}{os.sep}", "").replace(str(folder), ".")


def answers() -> Iterator[dict[str, Any]]:
    """Yield each case with its answer."""
    for what, (file, write) in cases().items():
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(place)
            arguments = write(folder)
            size = sum(path.stat().st_size for path in folder.rglob(Path(file).name) if path.is_file())
            status, line = answer(arguments, folder)
            command = (
                " ".join(("python -m common.evaluate", *arguments, "--no-latency"))
                .replace(f"{place}{os.sep}", "")
                .replace(place, ".")
            )
            yield {"file": file, "what": what, "bytes": size, "command": command, "status": status, "answer": line}


def write_answers(path: Path) -> dict[str, Any]:
    """Write all cases and answers as JSON, and return them."""
    record = {"command": COMMAND, "rows": list(answers()), "environment": describe_environment("cpu")}
    write_json(path, record)
    return record


# --- how a file reaches the command


def _with_weights(name: str, content: Any) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            torch.save(content, folder / name)
        return ["--arch", ARCH, "--weights", str(folder / name)]

    return write


def _checkpoint(folder: Path) -> Path:
    save_model(folder / "model.safetensors", create_model(ARCH))
    return folder / "model.safetensors"


def _with_header(change: dict[str, Any] | str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        file = _checkpoint(folder)
        header, tensors = read_checkpoint(file)
        text = change if isinstance(change, str) else json.dumps(header | change)
        save_file(tensors, file, metadata={"compression_papers": text})
        return ["--checkpoint", str(file)]

    return write


def _with_tensors(change: Callable[[nn.Module], object]) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        model = create_model(ARCH)
        change(model)
        save_model(folder / "model.safetensors", model)
        return ["--checkpoint", str(folder / "model.safetensors")]

    return write


def _with_mnist(name: str, raw: bytes) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        for part in ("train", "t10k"):
            (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 28, 28) + bytes(2 * 784))
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + bytes(2))
        (folder / name.removesuffix(".gz")).unlink()
        (folder / name).write_bytes(raw)
        return ["--checkpoint", str(_checkpoint(folder)), "--dataset", "mnist", "--dataset-dir", str(folder)]

    return write


def _with_image(write_image: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        for side in ("train", "test"):
            for label in "ab":
                (folder / side / label).mkdir(parents=True)
                Image.new("RGB", (32, 32)).save(folder / side / label / "1.png")
        write_image(folder / "train" / "a" / "0.png")
        return ["--checkpoint", str(_checkpoint(folder)), "--dataset", f"folder:{folder}", "--workers", "0"]

    return write


def _with_loop(folder: Path) -> list[str]:
    arguments = _with_image(lambda path: Image.new("RGB", (32, 32)).save(path))(folder)
    (folder / "test" / "a" / "all").symlink_to(folder / "test", target_is_directory=True)
    return arguments


# --- contents


def _state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(create_model(ARCH).state_dict())


def _state_dicts() -> dict[str, Any]:
    """Contents that torch.save can write, but that are not the weights of a network."""
    state = _state()
    weight, model = state["linear.weight"], create_model(ARCH)
    normed = nn.utils.spectral_norm(nn.Linear(*weight.shape[::-1]))
    with_part = create_model(ARCH)
    parametrizations.orthogonal(with_part.get_submodule("linear"))
    return {
        "names are numbers": dict(enumerate(state.values())),
        "a sparse tensor": state | {"linear.weight": weight.to_sparse()},
        "tensors on the meta device": {name: tensor.to("meta") for name, tensor in state.items()},
        "a quantized tensor": state | {"linear.weight": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)},
        "NumPy arrays": {name: tensor.numpy() for name, tensor in state.items()},
        "not a number": state | {"linear.weight": weight * float("nan")},
        "infinite statistics": state | {"bn1.running_var": state["bn1.running_var"] * float("inf")},
        "complex numbers": state | {"linear.bias": torch.zeros(10, dtype=torch.complex64)},
        "a missing tensor": {name: tensor for name, tensor in state.items() if name != "linear.bias"},
        "another shape": state | {"linear.bias": torch.zeros(11)},
        "another tensor": state | {"extra": torch.zeros(1)},
        "two networks": {f"{p}.{name}": tensor for p in ("student", "teacher") for name, tensor in state.items()},
        "an entire network": model,
        "an entire network in a dictionary": {"model": model, "epoch": 3},
        "old spectral norm": state | {f"linear.{name}": tensor for name, tensor in normed.state_dict().items()},
        "a parametrization": with_part.state_dict(),
        "a list": [1, 2],
        "an empty state dict": {"state_dict": {}},
    }


class _Call:
    """Object that is pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _zip(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
    return content.getvalue()


def _files() -> dict[str, bytes]:
    """Files under the name of a state dict that are something else."""
    content, program = io.BytesIO(), io.BytesIO()
    torch.save(_state(), content)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), program)
    return {
        "empty": b"",
        "truncated": content.getvalue()[:5000],
        "text": b"hello, world\n",
        "a TorchScript program": program.getvalue(),
        "a call of a function": _zip(pickle.dumps({"a": _Call(print, "called")}, protocol=2)),
        "bytes of gigabytes": _zip(pickle.dumps({"a": _Call(bytearray, 10**10)}, protocol=2)),
        "a memo of 64 GB": _zip(b"\x80\x02Nr\xff\xff\xff\xff."),
        "a key whose hash takes years": _zip(b"\x80\x02)" + b"2\x86" * 100 + b"q\x000}h\x00Ns."),
        "a compressed archive": _zip(pickle.dumps({}, protocol=2), zipfile.ZIP_DEFLATED),
    }


def _headers() -> dict[str, dict[str, Any] | str]:
    mean = [0.5] * 3
    return {
        "JSON nested 100,000 deep": "[" * 100_000,
        "an unknown architecture": {"arch": "os.system"},
        "a download": {"arch": "resnet50", "args": {"weights": "DEFAULT", "num_classes": 1000}},
        "arguments of gigabytes": {"args": {"num_classes": 10**9}},
        "a normalization as text": {"normalize": "imagenet"},
        "a normalization with NaN": {"normalize": {"mean": mean, "std": [0.2, float("nan"), 0.2]}},
        "a normalization of another length": {"normalize": {"mean": mean + mean, "std": mean + mean}},
        "a standard deviation of zero": {"normalize": {"mean": mean, "std": [0.2, 0.0, 0.2]}},
        "a number of 400 digits": {"normalize": {"mean": mean, "std": [10**400, 1, 1]}},
        "tied weights of no layer": {"tied": [["conv1.weight", "other.weight"]]},
        "another checksum": {"sha256": "00"},
    }


def _tensors() -> dict[str, Callable[[nn.Module], object]]:
    def narrow(model: Any) -> None:
        model.layer1[0].conv2.weight = nn.Parameter(torch.zeros(16, 9, 3, 3))

    def short(model: Any) -> None:
        model.linear.bias = nn.Parameter(torch.zeros(3))

    def infinite(model: Any) -> None:
        model.linear.bias = nn.Parameter(torch.full((10,), float("inf")))

    return {
        "layers that do not fit together": narrow,
        "a bias of another length": short,
        "infinite weights": infinite,
        "half precision": lambda model: model.half(),
        "double precision": lambda model: model.double(),
    }


def _indices() -> dict[str, bytes]:
    def index(places: Any) -> bytes:
        return json.dumps({"weight_map": places}).encode()

    return {
        "an index nested 100,000 deep": b"[" * 100_000,
        "an index of files elsewhere": index({"conv1.weight": "../../other.safetensors"}),
        "an index of a missing file": index({"conv1.weight": "missing.safetensors"}),
        "an index without tensors": index({}),
    }


def _idx_files() -> dict[str, tuple[str, bytes]]:
    images, labels = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
    zeros = gzip.compress(bytes(2**26), 9)  # members of a gzip file are concatenated
    return {
        "5 GiB in 5 MB": (f"{images}.gz", zeros * 80),
        "5 GiB after a valid header": (
            f"{images}.gz",
            gzip.compress(struct.pack(">IIII", 0x803, 2, 28, 28)) + zeros * 80,
        ),
        "0 x 4,294,967,295 x 4,294,967,295": (images, struct.pack(">IIII", 0x803, 0, 2**32 - 1, 2**32 - 1)),
        "a header of exabytes": (images, struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 28) + bytes(99)),
        "numbers of another type": (images, struct.pack(">IIII", 0xD03, 2, 28, 28) + bytes(8 * 784)),
        "fewer bytes than its header": (images, struct.pack(">IIII", 0x803, 2, 28, 28) + bytes(99)),
        "a truncated gzip file": (f"{labels}.gz", gzip.compress(struct.pack(">II", 0x801, 2) + bytes(2))[:-9]),
        "label 200": (labels, struct.pack(">II", 0x801, 2) + bytes((1, 200))),
    }


def _images() -> dict[str, Callable[[Path], object]]:
    ramp = np.tile(np.arange(32, dtype=np.float32), (32, 1))
    return {
        "an EPS file, which starts Ghostscript": lambda path: Image.new("L", (32, 32)).save(path, "EPS"),
        "a GIF": lambda path: Image.new("L", (32, 32)).save(path, "GIF"),
        "60,000 x 1 pixels": lambda path: Image.new("L", (60_000, 1)).save(path, "PNG"),
        "70 million pixels": lambda path: Image.new("1", (8_400, 8_400)).save(path, "PNG"),
        "floats of unknown range": lambda path: Image.fromarray(ramp).save(path, "TIFF"),
        "32-bit integers of unknown range": lambda path: Image.fromarray(ramp.astype(np.int32)).save(path, "TIFF"),
        "text under the name of an image": lambda path: path.write_text("hello"),
        "a truncated image": _write_truncated,
    }


def _write_truncated(path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(content, "PNG")
    path.write_bytes(content.getvalue()[:500])
