"""``python -m common.export``: export a network as ONNX or as a ``torch.export`` program, and verify the file.

The file is written under a temporary name and read back. Its outputs on real images are compared with those of the network,
for two batch sizes, and the file is renamed only if they agree.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import atomic_file
from common.cli import shorten
from common.errors import UserError
from common.options import DataOptions, input_shape_option, model_option
from common.settings import REQUIRED, command, option, section, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.data import DataBundle

    Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]  # positional or by keyword, each with the batch first

FORMATS = ("onnx", "pt2")
REQUIRES = {"onnx": ("onnx", "onnxruntime"), "pt2": ()}  # packages of the extra ``export``
TOLERANCE = 1e-5  # relative to the largest output, but at least absolute
OPSET = 18
PROGRESS_SECONDS = 10.0  # between two lines
IMAGES = 33  # outputs are compared for a batch of all images and for the first one alone


def export_network(
    model: nn.Module, inputs: Inputs, out: Path | str, format: str, log: Callable[[str], None] = lambda line: None
) -> float:
    """Export ``model`` and return the largest difference of its outputs: a tensor, or several in tuples, lists, dictionaries.

    Args:
        inputs: A batch (N, C, H, W), N > 1, for tracing and comparing; a tuple of several inputs, or {keyword: input}. The
            exported network accepts any batch size.
        out: File to write. It is not written if an output y differs by more than 1e-5 max(1, max|y|) or an error occurs.
        format: ``onnx`` (compared in onnxruntime; requires the extra ``export``; batch norm is folded into the layers in front of
            it) or ``pt2`` (torch.export).
        log: Function that receives lines on the progress.

    Raises:
        UserError: If the format is unknown, a package is missing, torch cannot export the network, or the outputs differ.
    """
    import torch

    from common.outputs import named_outputs
    from common.runtimes.onnx_file import OnnxNetwork

    check_format(format)
    if isinstance(model, OnnxNetwork):
        raise UserError("the network is run from an ONNX file, which is exported already; copy that file")
    model = model.cpu().eval()
    inputs = _map(inputs, lambda tensor: tensor.contiguous())
    count = _batch_size(inputs)
    largest = 0.0
    with atomic_file(out) as temporary:
        with _progress(f"tracing the network and writing {format}", log):
            run = _write(format, model, inputs, temporary)
        with _progress("comparing the outputs", log), torch.no_grad():
            for size in (count, 1):
                batch = _map(inputs, lambda tensor, size=size: tensor[:size])  # type: ignore[misc]
                expected, found = (
                    named_outputs(model(*_positional(batch), **_keywords(batch))),
                    named_outputs(run(batch)),
                )
                if len(found) != len(expected):
                    raise UserError(f"{out}: the exported network has {len(found)} outputs instead of {len(expected)}")
                for (name, target), output in zip(expected.items(), found.values(), strict=True):
                    largest = max(largest, _checked_difference(out, name, output, target))
    return largest


def check_format(format: str) -> None:
    """Raise UserError if a format is unknown, or a package that it requires is missing."""
    if format not in FORMATS:
        raise UserError(f"--format {format}: unknown format; give one of {', '.join(FORMATS)}")
    missing = next((name for name in REQUIRES[format] if find_spec(name) is None), None)
    if missing:
        raise UserError(
            f"--format {format}: the package {missing} is not installed; in the checkout, pip install -e './common[export]'"
        )


def _checked_difference(out: Path | str, name: str, output: Tensor, target: Tensor) -> float:
    """Return the largest difference of an output. Raises UserError if it is too large, or not a number."""
    what = f"{out}: the exported outputs" + (f" {name!r}" if name else "")
    if output.shape != target.shape:
        raise UserError(
            f"{what} have shape {tuple(output.shape)} instead of {tuple(target.shape)}; nothing was written"
        )
    if not target.numel():
        return 0.0
    allowed = TOLERANCE * max(1.0, float(target.abs().max()) if target.is_floating_point() else 0.0)
    difference = float((output.double() - target.double()).abs().max())  # nan stays nan
    if not difference <= allowed:
        raise UserError(
            f"{what} differ by {difference:.3g} (allowed: {allowed:.3g}); nothing was written, try another --format"
        )
    return difference


def _map(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def _positional(inputs: Any) -> tuple[Tensor, ...]:
    return () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)


def _keywords(inputs: Any) -> dict[str, Tensor]:
    return inputs if isinstance(inputs, dict) else {}


def _named_inputs(inputs: Any) -> dict[str, Tensor]:
    """Return {name in an ONNX file: input}."""
    if isinstance(inputs, tuple):
        return {f"input_{i}": tensor for i, tensor in enumerate(inputs)}
    return inputs if isinstance(inputs, dict) else {"images": inputs}


def _batch_size(inputs: Any) -> int:
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in _named_inputs(inputs).values()}
    if len(sizes) != 1 or max(sizes) < 2:
        raise UserError(
            f"inputs with {sorted(sizes)} examples; give every input the same number of examples, at least 2"
        )
    return sizes.pop()


@contextmanager
def _progress(what: str, log: Callable[[str], None]) -> Iterator[None]:
    """Log what is done, and every few seconds that it is still being done (context manager)."""
    done, start = threading.Event(), time.monotonic()

    def report() -> None:
        while not done.wait(PROGRESS_SECONDS):
            log(f"{what}: {time.monotonic() - start:.0f} s")

    log(f"{what} ...")
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _write(format: str, model: nn.Module, inputs: Any, file: Path) -> Callable[[Any], Any]:
    """Write a file and return the function that it contains. Raises UserError if torch does not export the network."""
    try:
        return WRITERS[format](model, inputs, file)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # of the network, and the many kinds of torch and onnx
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise UserError(
            f"--format {format}: torch does not export this network: {type(error).__name__}: {shorten(lines[0], 200)};"
            f" try --format {next(other for other in FORMATS if other != format)}"
        ) from error


def _write_onnx(model: nn.Module, inputs: Any, file: Path) -> Callable[[Any], Any]:
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    from common.fold import fold_batch_norm
    from common.outputs import named_outputs
    from common.runtimes.onnx_file import record_of, with_record

    given, dense = _named_inputs(inputs), model
    model = fold_batch_norm(model)

    class Flat(torch.nn.Module):
        """The network with tensors as inputs and a tuple of tensors as outputs, as ONNX has them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            named = dict(zip(given, tensors, strict=True))
            outputs = self.model(**named) if isinstance(inputs, dict) else self.model(*tensors)
            return tuple(named_outputs(outputs).values())

    flat = Flat().eval()
    with torch.no_grad():
        many, one = (flat(*(tensor[:size] for tensor in given.values())) for size in (None, 1))
        names = _output_names(list(named_outputs(model(*_positional(inputs), **_keywords(inputs)))), given)
    count = _batch_size(inputs)
    batched = [a.dim() > 0 and len(a) == count and len(b) == 1 for a, b in zip(many, one, strict=True)]
    axes = {name: {0: "batch"} for name in (*given, *(name for name, is_ in zip(names, batched, strict=True) if is_))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            flat,
            tuple(given.values()),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(given),
            output_names=names,
            dynamic_axes=axes,
        )
        if isinstance(inputs, torch.Tensor):
            file.write_bytes(with_record(file.read_bytes(), record_of(dense, inputs.shape[1:])))
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])

    def run(batch: Any) -> dict[str, Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in _named_inputs(batch).items()}
        return dict(zip(names, map(torch.from_numpy, map(np.asarray, session.run(names, feeds))), strict=True))

    return run


def _output_names(paths: Sequence[str], taken: Collection[str]) -> list[str]:
    """Return the names of the outputs in an ONNX file: "scores" for a single tensor, else those of keys and numbers."""
    if list(paths) == [""]:
        return ["scores"]
    return [f"output_{path}" if path[:1].isdigit() or path in taken else path for path in paths]


def _write_pt2(model: nn.Module, inputs: Any, file: Path) -> Callable[[Any], Any]:
    import torch

    example = _map(inputs, lambda tensor: tensor[:2])
    batch = torch.export.Dim("batch", min=1)
    shapes: Any = (
        {name: {0: batch} for name in example}
        if isinstance(inputs, dict)
        else tuple({0: batch} for _ in _positional(example))
    )
    with torch.no_grad():
        program = torch.export.export(model, _positional(example), _keywords(example), dynamic_shapes=shapes)
    with open(file, "wb") as stream:
        torch.export.save(program, stream)
    with open(file, "rb") as written:
        loaded = torch.export.load(written).module()
    return lambda given: loaded(*_positional(given), **_keywords(given))


WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}


def first_test_images(data: DataBundle, count: int = IMAGES, workers: int = 2) -> Tensor:
    """Return the first ``count`` test images, normalized: (N, C, H, W) float32."""
    return next(iter(data.test.batches(count, workers=workers))).images


@settings
class Export:
    """Export a network as ONNX or torch.export program and verify its outputs."""

    checkpoint: str = option(REQUIRED, "network file: model.safetensors, model.dcz or another installed format")
    model: str | None = model_option("; for a file that records no registered architecture")
    format: str = option("onnx", "file format", choices=FORMATS)
    out: str = option(REQUIRED, "output file")
    input_shape: list[list[int]] | None = input_shape_option(
        "; random numbers are used instead of images of --dataset. For a network of several inputs, repeat the option",
        action="append",
    )
    data: DataOptions = section(DataOptions, dataset="")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.export") -> int:
    return command(Export, export, argv, prog)


def export(settings: Export) -> None:
    """Read the network, export it, and compare the outputs."""
    from common.factory import import_factory
    from common.formats import load_network

    model = load_network(settings.checkpoint, import_factory(settings.model) if settings.model else None)
    inputs: Inputs
    if settings.input_shape:
        inputs, about = _random_inputs(settings.input_shape), f"{IMAGES} random examples"
    else:
        inputs, about = _images(settings, model)
    difference = export_network(model, inputs, settings.out, settings.format, log=lambda line: print(line, flush=True))
    size = Path(settings.out).stat().st_size
    print(f"{settings.out}: {size:,} bytes; outputs on {about} differ by at most {difference:.2g}")


def _images(settings: Export, model: nn.Module) -> tuple[Inputs, str]:
    """Return the images for tracing and comparing, and their description."""
    from common.data import load_data
    from common.factory import known_shape
    from common.trained_model import fit_channels, with_preprocessing_of

    dataset = settings.data.dataset or getattr(model, "checkpoint_header", {}).get("dataset")
    shape = known_shape(model) if "preprocessing" in getattr(model, "checkpoint_header", {}) else None
    if not settings.data.dataset and shape is not None and not _is_here(dataset):
        return _random_inputs([shape]), f"{IMAGES} random examples, {' x '.join(map(str, shape))}"
    if not dataset:
        raise UserError(
            f"{settings.checkpoint}: no data set is recorded in the file; give --dataset to compare the outputs, or --input-shape"
        )
    data = with_preprocessing_of(model, load_data(replace(settings.data, dataset=dataset)), settings.checkpoint)
    with suppress(TypeError):  # of a network that does not read one image; the export reports it
        data, _ = fit_channels(model, data, settings.checkpoint)
    return first_test_images(data, workers=settings.data.workers), f"{IMAGES} images of {data.name}"


def _is_here(dataset: str | None) -> bool:
    """Return whether a data set that a file records may be on this machine: not a folder that does not exist."""
    kind, colon, folder = (dataset or "").partition(":")
    return bool(dataset) and (not colon or not kind.endswith("folder") or Path(folder).expanduser().is_dir())


def _random_inputs(shapes: Sequence[Sequence[int]]) -> Tensor | tuple[Tensor, ...]:
    """Return random inputs of these shapes: a tensor, or a tuple of several."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(IMAGES, *shape, generator=generator) for shape in shapes)
    return inputs if len(inputs) > 1 else inputs[0]


if __name__ == "__main__":
    sys.exit(main())
