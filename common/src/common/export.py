"""``python -m common.export``: a network of any of our files as ONNX or as a ``torch.export`` program, checked before it is kept.

The file is written under a temporary name, read back, and its outputs on real pictures are compared with the network's, at
two batch sizes; only a file that agrees gets its name.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import cli
from common.atomic import atomic_file
from common.data import DataBundle
from common.errors import UserError
from common.factory import import_factory
from common.formats import load_network
from common.trained import normalized_as

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-5  # of the largest output, or absolute where that is below 1
OPSET = 18
PICTURES = 33  # compared together, and the first one alone: the batch stays free


def export_network(model: nn.Module, pictures: Tensor, out: Path | str, format: str) -> float:
    """Write ``model`` for inputs like ``pictures`` (N, C, H, W), N > 1 and free; the largest difference of outputs.

    format: ``onnx`` (compared in onnxruntime, needs the extra ``export``) or ``pt2`` (torch.export, compared after loading).
    Nothing is left under ``out`` if the outputs differ by more than 1e-5 max(1, max|y|), or on any other error. UserError.
    """
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
            model, (pictures,), str(file), dynamo=False, opset_version=OPSET, input_names=["pictures"], output_names=["scores"],
            dynamic_axes={"pictures": {0: "batch"}, "scores": {0: "batch"}},
        )  # fmt: skip
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(np.asarray(session.run(None, {"pictures": batch.numpy()})[0]))


def _write_pt2(model: nn.Module, pictures: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
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


def some_pictures(data: DataBundle, count: int = PICTURES) -> Tensor:
    """The first test pictures, normalised: (N, C, H, W) float32."""
    return next(iter(data.test.batches(count))).images


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m common.export", description="Write a network as ONNX or torch.export, checked.")
    parser.add_argument(
        "--checkpoint", required=True, help="model.safetensors, model.dcz or any format that is installed"
    )
    parser.add_argument(
        "--model", default=None, help="PACKAGE.MODULE:FACTORY for a network that the registry does not know"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="file format")
    parser.add_argument("--out", required=True, help="file to write")
    cli.add_data_options(parser, dataset="")
    args = parser.parse_args(argv)
    model = load_network(args.checkpoint, import_factory(args.model) if args.model else None)
    known = getattr(model, "checkpoint_header", {}).get("dataset")
    args.dataset = args.dataset or known
    if not args.dataset:
        raise UserError(
            f"{args.checkpoint} does not say what pictures it reads: give --dataset to compare the outputs on"
        )
    data = normalized_as(model, cli.load_data(args))
    difference = export_network(model, some_pictures(data), args.out, args.format)
    size = Path(args.out).stat().st_size
    print(
        f"{args.out}: {size:,} bytes; outputs on {PICTURES} pictures of {data.name} differ by {difference:.2g} at most"
    )


if __name__ == "__main__":
    sys.exit(main())
