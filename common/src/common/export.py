"""``python -m common.export``: export a network as ONNX or as a ``torch.export`` program, and verify the file.

The file is written under a temporary name and read back. Its outputs on real images are compared with those of the network,
for two batch sizes, and the file is renamed only if they agree.
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
TOLERANCE = 1e-5  # relative to the largest output, but at least absolute
OPSET = 18
IMAGES = 33  # outputs are compared for a batch of all images and for the first one alone


def export_network(model: nn.Module, images: Tensor, out: Path | str, format: str) -> float:
    """Export ``model`` and return the largest difference of the outputs, of several outputs that of the first.

    Args:
        images: Batch (N, C, H, W), N > 1, for tracing and comparing. The exported network accepts any batch size.
        out: File to write. It is not written if the outputs differ by more than 1e-5 max(1, max|y|) or an error occurs.
        format: ``onnx`` (compared in onnxruntime; requires the extra ``export``) or ``pt2`` (torch.export).

    Raises:
        UserError: If the format is unknown, a package is missing, or the outputs differ.
    """
    import torch

    from common.outputs import first_output

    if format not in FORMATS:
        raise UserError(f"--format {format}: unknown format; give one of {', '.join(FORMATS)}")
    model = model.cpu().eval()
    images = images.contiguous()
    with torch.no_grad():
        expected = first_output(model(images))
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    with atomic_file(out) as temporary:
        run = WRITERS[format](model, images, temporary)
        pairs = [(run(images[:count]), expected[:count]) for count in (len(images), 1)]
        difference = float(
            torch.stack([(output - target).abs().max() for output, target in pairs]).max()
        )  # nan stays nan
        if not difference <= allowed:
            raise UserError(
                f"{out}: the exported outputs differ by {difference:.3g} (allowed: {allowed:.3g}); nothing was written, try another --format"
            )
    return difference


def _write_onnx(model: nn.Module, images: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    import numpy as np
    import torch

    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"--format onnx: the package {error.name} is not installed; in the checkout, pip install -e './common[export]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["scores"],
            dynamic_axes={"images": {0: "batch"}, "scores": {0: "batch"}},
        )
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(np.asarray(session.run(None, {"images": batch.numpy()})[0]))


def _write_pt2(model: nn.Module, images: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    import torch

    from common.outputs import first_output

    with torch.no_grad():
        program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    with open(file, "wb") as stream:
        torch.export.save(program, stream)
    with open(file, "rb") as written:
        loaded = torch.export.load(written).module()

    def run(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return first_output(loaded(batch))

    return run


WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}


def first_test_images(data: DataBundle, count: int = IMAGES, workers: int = 2) -> Tensor:
    """Return the first ``count`` test images, normalized: (N, C, H, W) float32."""
    return next(iter(data.test.batches(count, workers=workers))).images


@settings
class Export:
    """Export a network as ONNX or torch.export program and verify its outputs."""

    checkpoint: str = option(REQUIRED, "network file: model.safetensors, model.dcz or another installed format")
    model: str | None = option(None, "PACKAGE.MODULE:FACTORY of a network that is not registered")
    format: str = option("onnx", "file format", choices=FORMATS)
    out: str = option(REQUIRED, "output file")
    data: DataOptions = section(DataOptions, dataset="")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Export, export, argv, "python -m common.export")


def export(settings: Export) -> None:
    """Read the network, export it, and compare the outputs."""
    from common.data import load_data
    from common.factory import import_factory
    from common.formats import load_network
    from common.trained_model import with_normalization_of

    model = load_network(settings.checkpoint, import_factory(settings.model) if settings.model else None)
    dataset = settings.data.dataset or getattr(model, "checkpoint_header", {}).get("dataset")
    if not dataset:
        raise UserError(
            f"{settings.checkpoint}: no data set is recorded in the file; give --dataset to compare the outputs"
        )
    data = with_normalization_of(model, load_data(replace(settings.data, dataset=dataset)))
    images = first_test_images(data, workers=settings.data.workers)
    difference = export_network(model, images, settings.out, settings.format)
    size = Path(settings.out).stat().st_size
    print(
        f"{settings.out}: {size:,} bytes; outputs on {IMAGES} images of {data.name} differ by at most {difference:.2g}"
    )


if __name__ == "__main__":
    sys.exit(main())
