"""``python -m common.export``: a network of any of our files as ONNX or as a ``torch.export`` program, checked before it is kept.

The file is written under a temporary name, read back, and its outputs on real pictures are compared with the network's, at
two batch sizes; only a file that agrees gets its name.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import atomic_file
from common.errors import UserError
from common.options import DataOptions
from common.settings import REQUIRED, command, option, section, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.data import DataBundle

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-5  # of the largest output, or absolute where that is below 1
OPSET = 18
PICTURES = 33  # compared together, and the first one alone: the batch stays free


def export_network(model: nn.Module, pictures: Tensor, out: Path | str, format: str) -> float:
    """Write ``model`` for inputs like ``pictures`` (N, C, H, W), N > 1 and free; the largest difference of outputs.

    format: ``onnx`` (compared in onnxruntime, needs the extra ``export``) or ``pt2`` (torch.export, compared after loading).
    Nothing is left under ``out`` if the outputs differ by more than 1e-5 max(1, max|y|), or on any other error. UserError.
    """
    import torch

    if format not in FORMATS:
        raise UserError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    model = model.cpu().eval()
    pictures = pictures.contiguous()
    with torch.no_grad():
        expected = model(pictures)
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    with atomic_file(out) as temporary:
        run = WRITERS[format](model, pictures, temporary)
        pairs = [(run(pictures[:count]), expected[:count]) for count in (len(pictures), 1)]
        difference = float(
            torch.stack([(found - wanted).abs().max() for found, wanted in pairs]).max()
        )  # nan stays nan
        if not difference <= allowed:
            raise UserError(f"{out}: its outputs differ by {difference:.3g} from the network's (allowed {allowed:.3g})")
    return difference


def _write_onnx(model: nn.Module, pictures: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    import numpy as np
    import torch

    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX needs the extra: in the checkout, pip install -e './common[export]' ({error.name} is missing)"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (pictures,),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=["scores"],
            dynamic_axes={"pictures": {0: "batch"}, "scores": {0: "batch"}},
        )
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(np.asarray(session.run(None, {"pictures": batch.numpy()})[0]))


def _write_pt2(model: nn.Module, pictures: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    import torch

    with torch.no_grad():
        program = torch.export.export(model, (pictures[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    with open(file, "wb") as stream:
        torch.export.save(program, stream)
    with open(file, "rb") as written:
        loaded = torch.export.load(written).module()

    def run(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return loaded(batch)

    return run


WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}


def some_pictures(data: DataBundle, count: int = PICTURES, workers: int = 2) -> Tensor:
    """The first test pictures, normalised: (N, C, H, W) float32."""
    return next(iter(data.test.batches(count, workers=workers))).images


@settings
class Export:
    """Write a network as ONNX or torch.export, checked."""

    checkpoint: str = option(REQUIRED, "model.safetensors, model.dcz or any format that is installed")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY for a network that the registry does not know")
    format: str = option("onnx", "file format", choices=FORMATS)
    out: str = option(REQUIRED, "file to write")
    data: DataOptions = section(DataOptions, dataset="")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Export, export, argv, "python -m common.export")


def export(settings: Export) -> None:
    """The command: read the network, write it, compare."""
    from common.data import load_data
    from common.factory import import_factory
    from common.formats import load_network
    from common.trained_model import with_normalization_of

    model = load_network(settings.checkpoint, import_factory(settings.model) if settings.model else None)
    dataset = settings.data.dataset or getattr(model, "checkpoint_header", {}).get("dataset")
    if not dataset:
        raise UserError(
            f"{settings.checkpoint} does not say what pictures it reads: give --dataset to compare the outputs on"
        )
    data = with_normalization_of(model, load_data(replace(settings.data, dataset=dataset)))
    pictures = some_pictures(data, workers=settings.data.workers)
    difference = export_network(model, pictures, settings.out, settings.format)
    size = Path(settings.out).stat().st_size
    print(
        f"{settings.out}: {size:,} bytes; outputs on {PICTURES} pictures of {data.name} differ by {difference:.2g} at most"
    )


if __name__ == "__main__":
    sys.exit(main())
