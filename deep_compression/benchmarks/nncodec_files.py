"""Files next to those of NNCodec (ISO/IEC 15938-17), from one network in one run: bytes, accuracy, and seconds to write and to read.

python benchmarks/nncodec_files.py --peer nncodec/bin/python --name ResNet-56 --checkpoint resnet56.safetensors --dataset cifar10 \\
    --steps -34 -30 -26 -24 -22 --prices 2e-11 5e-11 1.2e-10 3e-10

PEER is Python in an environment with nncodec 2.1.3. Both sides begin with the same tensors and use one thread; seconds are processor time. NNCodec
has its defaults (dependent quantization); it sees no images. Ours is quantized with unlabeled training images, and its file is read back.
Divergence: mean Kullback-Leibler divergence of the predictions from the dense network's, in nats, on the test images.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import cli
from common.atomic import write_json
from common.data import load_data
from common.device import set_threads
from common.options import CalibrationOptions, DataOptions
from common.pipeline import recalibration_images
from common.runs import describe_environment
from common.settings import REQUIRED, command, option, section, settings
from common.trained_model import TrainedModel, read_trained_model
from deep_compression import load_compressed, save_compressed
from deep_compression.rate_distortion.quantize import find_importance, quantize_network

HERE = Path(__file__).resolve().parent


@settings
class NNCodecFiles:
    """Compare files with those of NNCodec, for one network."""

    peer: str = option(REQUIRED, "Python of an environment with nncodec")
    name: str = option(REQUIRED, "name of the network in the table")
    checkpoint: Path = option(REQUIRED, "file of the dense network")
    data: DataOptions = section(DataOptions)
    calibration: CalibrationOptions = section(CalibrationOptions, calibration_images=500)
    steps: list[int] = option([-34, -30, -26, -22], "quantization parameters of NNCodec", type=int)
    prices: list[float] = option([2e-11, 5e-11, 1.2e-10, 3e-10], "prices of a bit, in nats", type=float)
    out: Path = option(HERE.parent / "results", "folder of the result file")


def main(argv: Sequence[str] | None = None) -> int:
    line = cli.command_line("python benchmarks/nncodec_files.py", argv)
    return command(NNCodecFiles, lambda chosen: compare(chosen, line), argv, "nncodec_files.py", "deep_compression")


def compare(chosen: NNCodecFiles, line: str) -> None:
    """Write the result file."""
    set_threads(1)
    start = read_trained_model(chosen.checkpoint, load_data(chosen.data), workers=chosen.data.workers)
    tests, labels = test_images(start)
    dense = scores(start.model, tests)
    dense_bytes = sum(4 * tensor.numel() for tensor in start.model.state_dict().values() if tensor.is_floating_point())
    rows = []

    def measured(side: str, setting: float, size: int, write: float, read: float, model: nn.Module) -> None:
        found = scores(model, tests)
        rows.append(
            {
                "side": side,
                "setting": setting,
                "bytes": size,
                "top1": 100 * float((found.argmax(1) == labels).float().mean()),
                "divergence": float((dense.exp() * (dense - found)).sum(1).mean()),
                "agreement": 100 * float((found.argmax(1) == dense.argmax(1)).float().mean()),
                "write_seconds": write,
                "read_seconds": read,
            }
        )
        print(
            {name: round(v, 5) if isinstance(v, float) and v > 1e-5 else v for name, v in rows[-1].items()}, flush=True
        )

    with tempfile.TemporaryDirectory() as folder:
        read_back = copy.deepcopy(start.model)
        for side, files in (("nncodec", of_nncodec), ("ours", of_ours)):
            for setting, size, write, read, state in files(chosen, start, Path(folder)):
                read_back.load_state_dict(state)
                measured(side, setting, size, write, read, read_back)
    record = {
        "command": line,
        "name": chosen.name,
        "dense": {"bytes": dense_bytes, "top1": 100 * float((dense.argmax(1) == labels).float().mean())},
        "test_images": len(tests),
        "training_images": chosen.calibration.calibration_images,
        "rows": rows,
        "environment": describe_environment(torch.device("cpu")),
    }
    write_json(chosen.out / f"files-{chosen.name.lower().replace(' ', '_')}.json", record)


def of_nncodec(
    chosen: NNCodecFiles, start: TrainedModel, folder: Path
) -> Iterator[tuple[float, int, float, float, dict[str, Tensor]]]:
    """Yield (parameter, bytes, seconds to write, seconds to read, state) of NNCodec's files."""
    state = start.model.state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items() if tensor.is_floating_point()}
    np.savez(folder / "dense.npz", **tensors)
    words = [chosen.peer, HERE / "nncodec_worker.py", folder / "dense.npz", folder, *chosen.steps]
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    subprocess.run([str(word) for word in words], check=True, env=environment, stdout=subprocess.DEVNULL)
    for step, (size, write, read) in json.loads((folder / "sizes.json").read_text()).items():
        found = np.load(folder / f"{step}.npz")
        decoded = {
            name: torch.from_numpy(found[name]).reshape(tensor.shape) if name in tensors else tensor
            for name, tensor in state.items()
        }
        yield int(step), size, write, read, decoded


def of_ours(
    chosen: NNCodecFiles, start: TrainedModel, folder: Path
) -> Iterator[tuple[float, int, float, float, dict[str, Tensor]]]:
    """Yield (price, bytes, seconds to write, seconds to read, state) of our files."""
    images = torch.cat(list(recalibration_images(start, chosen.calibration.calibration_images, 0)))
    begin = time.process_time()
    importance = find_importance(start.model, images)
    shared = time.process_time() - begin
    path = folder / "ours.dcz"
    for price in chosen.prices:
        begin, seconds = time.process_time(), []
        quantized, _ = quantize_network(start.model, images, price, importance=importance)
        save_compressed(path, quantized, coder="adaptive")
        write = shared + time.process_time() - begin
        for _ in range(3):
            begin = time.process_time()
            state = load_compressed(path)
            seconds.append(time.process_time() - begin)
        yield price, path.stat().st_size, write, statistics.median(seconds), state


def test_images(start: TrainedModel) -> tuple[Tensor, Tensor]:
    """Return all test images (0.6 GB for 1,000 of 224 x 224) and their labels."""
    batches = list(start.data.test.batches(100, channels_last=True))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


@torch.inference_mode()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logarithms of the predictions (N, classes)."""
    return torch.cat([model(part) for part in images.split(100)]).log_softmax(1)


if __name__ == "__main__":
    sys.exit(main())
