"""Post-training quantization to 8 bits: an ONNX file whose convolutions and linear layers compute with integers.

Weights have a scale per output channel. The range of each activation is taken from training images, without labels; of several ways to
do so, the one is chosen with which the quantized network agrees best with the given network on these images.

network ─► export (batch norm folded) ─► ranges of activations ─► QuantizeLinear and DequantizeLinear nodes ─► model.onnx
"""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.channels.example import copy_network
from common.errors import UserError
from common.export import export_network
from common.methods import Decision
from common.outputs import first_output
from common.pipeline import recalibration_images
from common.progress import track
from common.runs import Stage
from common.runtimes.onnx_file import OnnxNetwork, record_of, with_record
from common.target import Target
from common.trained_model import TrainedModel

REQUIRES = ("onnx", "onnxruntime")
BATCH, BATCH_PIXELS = (
    25,
    250_000,
)  # images, and their pixels, of which all activations are in memory: about 1 GB at 224x224
PERCENTILES = (99.999, 99.99)  # of an activation's values that are within its range
BINS = 2048  # of the histograms from which percentiles are read
EXAMPLES = 8  # images with which the export is checked
# The last layer's scores stay floating-point numbers: rounded to 256 values, the largest two may become equal.
QUANTIZER = {"OpTypesToExcludeOutputQuantization": ["Gemm"], "ActivationSymmetric": False}


@dataclass(frozen=True)
class Candidate:
    """A quantized network.

    Attributes:
        calibration: How the ranges were chosen: "minmax", or "percentile 99.99".
        network: Its file, run by ONNX Runtime.
        agreement: Percent of the calibration images on which it predicts the same class as the float network.
        change: Distance of its outputs from the float network's, in percent of the norm of the latter.
    """

    calibration: str
    network: OnnxNetwork
    agreement: float
    change: float


def check_installed() -> None:
    """Raise UserError if a package for quantization is missing."""
    missing = next((name for name in REQUIRES if find_spec(name) is None), None)
    if missing:
        raise UserError(
            f"int8: the package {missing} is not installed; in the checkout, pip install -e './common[export]'"
        )


def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Quantize a network; it has no target, since all weights get 8 bits. Raises UserError if it cannot be exported."""
    check_installed()
    images = torch.cat([batch.cpu() for batch in recalibration_images(start, start.calibration_images, stage.seed)])
    candidates = quantize(copy_network(start.model), images)
    best = max(candidates, key=lambda one: (one.agreement, -one.change))
    for one in candidates:
        stage.log(f"int8, {one.calibration}: agreement {one.agreement:.2f} % on {len(images)} training images")
    record = describe(start)
    report = {
        "calibration": best.calibration,
        "calibration_images": len(images),
        "calibrations": {one.calibration: [round(one.agreement, 4), round(one.change, 4)] for one in candidates},
    }
    return Decision(model=OnnxNetwork(with_record(best.network.content, record), record).eval(), report=report)


def save(path: Path, network: nn.Module, start: TrainedModel) -> None:
    """Write the quantized network's file."""
    from common.atomic import write_bytes

    assert isinstance(network, OnnxNetwork)
    write_bytes(path, network.content)


def describe(start: TrainedModel) -> dict[str, Any]:
    """Return what the file records: the cost, and the data as in a checkpoint."""
    data = start.data.record()
    if data["normalize"] is not None:
        data["normalize"] = dict(zip(("mean", "std"), map(list, data["normalize"]), strict=True))
    return record_of(start.model, start.data.input_shape) | {name: value for name, value in data.items() if value}


def quantize(model: nn.Module, images: Tensor) -> list[Candidate]:
    """Quantize a network in several ways. model: it is moved to the CPU. images: calibration images (N, C, H, W).

    Raises UserError if the network cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        exported, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
        export_network(model, images[:EXAMPLES], exported, "onnx")
        _prepare(exported, prepared)
        expected = OnnxNetwork(prepared.read_bytes())
        scores = _outputs(expected, images)
        found = []
        for name, ranges in _ranges(prepared, images):
            network = OnnxNetwork(_quantized(prepared, ranges)).eval()
            found.append(Candidate(name, network, *_difference(_outputs(network, images), scores)))
    return found


def _prepare(exported: Path, prepared: Path) -> None:
    """Simplify an exported graph, and infer its shapes."""
    from onnxruntime.quantization import quant_pre_process

    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)


def _ranges(file: Path, images: Tensor) -> Iterator[tuple[str, Any]]:
    """Yield (name, ranges of all activations) for each way to choose them from images (N, C, H, W)."""
    from onnxruntime.quantization import CalibrationMethod

    minmax = _collect(file, images, CalibrationMethod.MinMax, {})
    yield "minmax", _silent(minmax.compute_data)
    histograms = _collect(file, images, CalibrationMethod.Percentile, {"num_bins": BINS, "symmetric": False})
    for percentile in PERCENTILES:
        histograms.collector.percentile = percentile
        yield f"percentile {percentile}", _silent(histograms.compute_data)


def _collect(file: Path, images: Tensor, method: Any, options: Mapping[str, Any]) -> Any:
    """Return ONNX Runtime's calibrator, which has seen all images. They are read in batches: histograms keep no activations."""
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Batch(CalibrationDataReader):
        """A reader of one batch."""

        def __init__(self, batch: np.ndarray) -> None:
            self.batches = iter([{"images": batch}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    calibrator = create_calibrator(
        file,
        op_types_to_calibrate=_op_types(),
        augmented_model_path=str(file.with_name("augmented.onnx")),
        calibrate_method=method,
        extra_options=dict(options),
    )
    for batch in track(_batches(images), "calibrate"):
        _silent(calibrator.collect_data, Batch(batch.contiguous().numpy()))
    return calibrator


def _silent(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of ONNX Runtime's quantizer, which prints its progress."""
    with redirect_stdout(io.StringIO()):
        return function(*arguments)


def _op_types() -> list[str]:
    """Return the operators that are quantized: all that ONNX Runtime can."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _quantized(file: Path, ranges: Any) -> bytes:
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    quantizer = QDQQuantizer(
        onnx.load(str(file)),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=_op_types(),
        extra_options=QUANTIZER,
    )
    quantizer.quantize_model()
    return quantizer.model.model.SerializeToString()


def _outputs(network: OnnxNetwork, images: Tensor) -> Tensor:
    return torch.cat([first_output(network(batch)) for batch in _batches(images)])


def _batches(images: Tensor) -> tuple[Tensor, ...]:
    return images.split(min(BATCH, max(1, BATCH_PIXELS // images[0, 0].numel())))


def _difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the agreement in percent, and the distance in percent of the norm. Outputs that are no class scores agree."""
    same = (found.argmax(1) == expected.argmax(1)).double().mean() if found.dim() == 2 else 1.0
    return 100 * float(same), 100 * float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice of ONNX Runtime's quantizer (context manager)."""
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
