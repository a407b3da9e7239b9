"""Compress the user's own network in one call: ``from common import compress``."""

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.atomic import write_bytes, write_json
from common.channels.example import copy_network
from common.data import DataBundle
from common.data.batches import ImageSet
from common.data.own_data import OwnData, own_data
from common.device import choose_device
from common.errors import UserError
from common.formats import load_network
from common.layers import to_device, weight_of
from common.limits import Limits
from common.log import Log
from common.markdown import markdown_table, pad_table
from common.measure import evaluate
from common.methods import Method, find_method, installed_methods
from common.pipeline import FineTuning, Outcome
from common.pipeline import compress as run_pipeline
from common.progress import activity, format_duration, note
from common.runs import DECISION, Stage, open_stage, read_json
from common.runtimes import TORCH
from common.target import AXES, Axis, Target, no_target_message, only_target
from common.trained_model import (
    CALIBRATION_IMAGES,
    CPU,
    TrainedModel,
    check_trained_model,
    count_outputs,
    with_preprocessing_of,
)
from common.training import Hooks, TrainOptions, mean_loss
from common.training.step_time import measure_speed
from common.wrapped import plain_network

PACKAGE = "common"
NO_TARGET = "no target"  # of a method without one
DEFAULT = "model_preserving_id_extended"
TRAINING = TrainOptions(epochs=0, learning_rate=0.01, batch_size=64)  # of fine-tuning, with the epochs of ``train``


@dataclass(frozen=True)
class CompressionReport:
    """Result of :func:`compress`: what was measured on the compressed network's file, after it was read back.

    Attributes:
        method: Label of the method.
        note: What must accompany its results.
        target: Requested fraction and its axis, e.g. "50 % of the MACs"; "no target" if the method has none.
        metrics: Entries of the dense and the compressed network, as in metrics.json.
        widths: (layer, channels before, channels after) of every layer that became narrower.
        kept: Indices of the kept channels, by channel group.
        excluded: Reasons, by group, why groups of channels were left alone.
        labeled: Whether accuracy was measured; otherwise the agreement with the dense network.
        examples: Number of examples for measuring.
        seconds: Duration of the call.
        file: The compressed network's file.
    """

    method: str
    note: str
    target: str
    metrics: Mapping[str, Mapping[str, Any]]
    widths: Sequence[tuple[str, int, int]]
    kept: Mapping[str, Sequence[int]]
    excluded: Mapping[str, str]
    labeled: bool
    examples: int
    seconds: float
    file: Path
    _inputs: Tensor | None = field(default=None, repr=False, compare=False)
    _factory: Callable[[], nn.Module] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        dense, small = self.metrics["baseline"], self.metrics["compressed"]
        rows = [[name, *cells] for name, *cells in _quality_rows(dense, small, self.labeled)]
        for key, name in (("macs", "MACs"), ("params", "parameters"), ("bytes", "bytes of the file")):
            rows.append([name, f"{dense[key]:,}", f"{small[key]:,}", f"{100 * small[key] / dense[key]:.1f} %"])
        for batch, before in dense.get("latency_ms", {}).items():
            after = small["latency_ms"][batch]
            rows.append([f"ms, batch {batch}", f"{before:.2f}", f"{after:.2f}", f"{100 * after / before:.1f} %"])
        parts = [
            f"{self.method}, {self.target}, in {self.seconds:.0f} s; measured on {self.examples:,} examples\n",
            pad_table(markdown_table(["", "dense", "compressed", "compressed / dense"], rows)),
        ]
        if self.note:
            parts.append(f"Note: {self.note}\n")
        if self.widths:
            parts.append(pad_table(markdown_table(["layer", "channels before", "channels after"], self.widths)))
        if self.excluded:
            parts.append("Left alone:\n\n" + "".join(f"- {name}: {why}\n" for name, why in self.excluded.items()))
        return "\n".join(parts)

    def save(self, path: Path | str) -> list[Path]:
        """Write the compressed network to a file, and this report next to it as ``<path>.json``; return both.

        Raises UserError if the suffix is not that of the network's format.
        """
        path = Path(path)
        if path.suffix != self.file.suffix:
            raise UserError(f"{path}: this network is a {self.file.suffix} file; give the path that suffix")
        if path.resolve() != self.file.resolve():
            write_bytes(path, self.file.read_bytes())
        record = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        report = path.with_name(path.name + ".json")
        write_json(report, record | {"file": path.name})
        return [path, report]

    @classmethod
    def load(cls, path: Path | str) -> "CompressionReport":
        """Read the report of a saved network. Raises UserError if it is missing or damaged. path: the network's file."""
        path = Path(path)
        report = path.with_name(path.name + ".json")
        record = read_json(report)
        try:
            widths = [(str(name), int(before), int(after)) for name, before, after in record["widths"]]
            return cls(**{**record, "widths": widths, "file": path})
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{report}: not a report of a compression: {error}") from error

    def export(self, path: Path | str, format: str | None = None) -> float:
        """Export the compressed network and return the largest difference of its outputs (:mod:`common.export`).

        Args:
            path: File to write.
            format: ``onnx`` or ``pt2``; default: the suffix of the path.

        Raises:
            UserError: If the report was loaded without the network, or the export fails.
        """
        from common.export import export_network

        if self._inputs is None:
            raise UserError(f"{path}: this report was read from a file; export with compression-papers export")
        model = load_network(self.file, self._factory)
        return export_network(model, self._inputs, path, format or Path(path).suffix.lstrip("."))

    def transfer_optimizer(self, optimizer: Optimizer, model: nn.Module, smaller: nn.Module) -> Optimizer:
        """Make the optimizer of the unpruned network train the compressed network instead, in place, and return it.

        Options, schedulers and the state (momentum) of the kept channels are kept: see
        :func:`common.optimizer.transfer_optimizer`.

        Args:
            model: The network that was compressed.
            smaller: The compressed network, on the device on which it will be trained.

        Raises:
            UserError: If the report was loaded without the network, or the optimizer has no parameter of ``model``.
        """
        from common.optimizer import transfer_optimizer

        if self._inputs is None:
            raise UserError(
                "transfer_optimizer: this report was read from a file; use the one that compress() returned"
            )
        return transfer_optimizer(optimizer, model, smaller, self.kept, self._inputs[:1])


def compress(
    model: nn.Module,
    data: OwnData,
    method: str = DEFAULT,
    *,
    target_macs: float | None = None,
    target_bytes: float | None = None,
    target_latency: float | None = None,
    latency_batch_size: int = 1,
    latency_runtime: str = TORCH,
    tolerance: float | None = None,
    test: OwnData | None = None,
    train: int | TrainOptions = 0,
    metric: Callable[[nn.Module], float] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    ignored_layers: Sequence[str] = (),
    only: Sequence[str] | None = None,
    min_channels: int = 1,
    max_pruned: float = 1.0,
    round_to: int = 1,
    calibration_images: int = CALIBRATION_IMAGES,
    out: Path | str | None = None,
    device: str = "auto",
    seed: int = 0,
    latency: bool = True,
    log: Log | None = None,
) -> tuple[nn.Module, CompressionReport]:
    """Return a smaller network and a report on it. The given network is not changed, and nothing is trained without ``train``.

    Args:
        model: Trained network. Its weights are used as they are.
        data: Examples as the network reads them: a DataLoader or Dataset, tensors, or a folder of images; see
            :func:`common.data.own_data.own_data`. Methods choose by these; a part that is not used otherwise measures the
            result. Labels are optional for methods that do not train with them.
        method: Name of an installed method.
        target_macs: Fraction of the MACs to keep; this, ``target_bytes`` or ``target_latency``, except for methods without a target
            (int8).
        target_bytes: Fraction of the file's bytes to keep.
        target_latency: Fraction of the dense network's time on this machine to keep, with the threads that torch has now, as
            measured (:mod:`common.latency_target`).
        latency_batch_size: Images per forward pass of ``target_latency``.
        latency_runtime: Runtime in which it is measured: "torch", "onnxruntime" or "openvino".
        tolerance: How far below the target the result may be, relative to it; default: 0.1, and 0.05 for a latency. (Comparisons
            use 0.02.)
        test: Examples for measuring; default: a fifth of ``data``.
        train: Epochs of fine-tuning, or its recipe.
        metric: Function (network) -> value that measures a network which is not a classifier.
        loss: Function (outputs, targets) -> mean loss, to fine-tune a network which is not a classifier.
        ignored_layers: Patterns of names of layers that are not pruned, e.g. "layer1.*"; a name includes the layers in it. The
            weights of these layers are left alone by methods that target bytes.
        only: Patterns of names of the only layers that may be pruned, e.g. "backbone.*".
        min_channels: Smallest number of channels that a pruned layer keeps.
        max_pruned: Largest fraction of a layer's channels that may be removed.
        round_to: Number that the widths of pruned layers are multiples of, e.g. 8.
        calibration_images: Number of examples from which methods that do not train take their statistics.
        out: Run folder; default: a temporary folder.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: Random seed.
        latency: Whether to measure latency.
        log: Function that prints a line, such as ``print``, of what is going to be done, about how long it takes, the dense
            network, and each phase; on a terminal, ``print`` also shows a bar. Default: nothing is printed.

    Raises:
        UserError: If an argument is invalid, the method needs labels that are not given, or the target cannot be reached.
    """
    began = time.monotonic()
    given: dict[Axis, float | None] = {"macs": target_macs, "bytes": target_bytes, "latency": target_latency}
    target = only_target(given, tolerance, latency_batch_size, latency_runtime)
    chosen = find_method(installed_methods(), method)
    if target is None and chosen.axis is not None:
        raise UserError(no_target_message(AXES))
    chosen.check_axis(target, method)
    model = copy_network(plain_network(model)).cpu().eval()
    classifier = metric is None and loss is None
    bundle, labeled = own_data(data, test, seed=seed, targets=not classifier)
    if isinstance(data, str | Path):  # image files, of which the network's file or library records how it reads them
        bundle = _as_recorded(model, bundle)
    place = choose_device(device)
    options: dict[str, Any] = {"classifier": classifier, "metric": metric}
    start = TrainedModel(type(model).__name__, model, bundle, None, partial(copy_network, model), place, **options)
    recipe = replace(TRAINING, epochs=train) if isinstance(train, int) else train
    check_labels(chosen, method, labeled and classifier, recipe if loss is None else None)
    if classifier and not labeled:
        start = replace(start, data=labeled_by(start))
    if classifier and bundle.prepared:
        start = replace(start, data=_with_all_classes(start))
    start = check_trained_model(start)
    limits = Limits.of(start.model, start.all_groups, ignored_layers, only, min_channels, max_pruned, round_to)
    start = start.changed(limits=limits, calibration_images=calibration_images)
    folder = Path(tempfile.mkdtemp(prefix="compress-") if out is None else out)
    described = {
        "method": method,
        **({f"target_{target.axis}": target.fraction, "tolerance": target.tolerance} if target else {}),
        **(target.conditions if target else {"latency_batch_size": None}),
        "seed": seed,
        "weights": start.digest,
        "limits": limits.identity(),
        "calibration_images": calibration_images if calibration_images != CALIBRATION_IMAGES else None,
        "training": recipe.identity() if recipe.epochs else None,
    }
    stage = open_stage(
        folder, PACKAGE, described, device=place, fingerprint=bundle.fingerprint, seed=seed, log=note, recipe=recipe
    )
    tuning = FineTuning(recipe, log_test=labeled and classifier, loss=loss)
    network, report = compress_trained(chosen, start, target, stage, tuning, latency=latency, began=began, log=log)
    if out is None:
        weakref.finalize(report, shutil.rmtree, folder, ignore_errors=True)
    return network, report


def compress_trained(
    method: Method,
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    tuning: FineTuning,
    *,
    latency: bool = True,
    began: float | None = None,
    log: Log | None = None,
) -> tuple[nn.Module, CompressionReport]:
    """Compress a network in a run folder (:func:`common.pipeline.compress`), read it back, and report.

    Args:
        began: Time at which the call began, in seconds of the monotonic clock.
        log: As of :func:`compress`.
    """
    began = time.monotonic() if began is None else began
    aim = NO_TARGET if target is None else f"{100 * target.fraction:g} % of the {target.what}"
    with activity(f"{method.label}, {aim}", log) as doing:
        if log is not None and not stage.finished:
            for line in _plan(method, start, aim, tuning, start.data.labeled):
                doing.print(line)
        networks: list[nn.Module] = []  # the one that was read back from the file and measured

        def keep_network(outcome: Outcome) -> dict[str, Any]:
            networks.append(outcome.network)
            return {}

        metrics = run_pipeline(method, start, target, stage, tuning, latency=latency, details=keep_network)
    file = stage.folder / metrics["file"]
    if networks and start.metric is None:  # otherwise the user's code may have changed it
        network = to_device(networks[0], CPU, torch.contiguous_format)
    else:
        network = load_network(file, start.factory)
    report = CompressionReport(
        method.label,
        method.note,
        aim,
        {name: metrics[name] for name in ("baseline", "compressed")},
        _widths(start.model, network),
        read_json(stage.folder / DECISION)["kept"],
        _left_alone(start),
        start.classifier and start.data.labeled,
        len(start.data.test),
        round(time.monotonic() - began, 1),
        file,
        next(batch.images for batch in start.data.test.batches(33, workers=start.workers)),
        start.factory,
    )
    return network, report


def _plan(method: Method, start: TrainedModel, aim: str, tuning: FineTuning, labeled: bool) -> list[str]:
    """Return what is going to be done, about how long it takes by a measured training step, and the dense network."""
    recipe, images = tuning.recipe, len(start.data.train)
    epochs = recipe.epochs if method.is_tuned else 0
    trained = [f"{method.label} trains with labels"] * method.trains
    trained += [f"the pruned network is fine-tuned for {epochs} epoch{'s' * (epochs > 1)}"] * bool(epochs)
    line = f"{start.name}: {method.label}, {'' if aim == NO_TARGET else 'to '}{aim}; {' and '.join(trained) or 'nothing is trained'}"
    if start.classifier or tuning.loss is not None:
        hooks = Hooks() if tuning.loss is None else Hooks(loss=mean_loss(tuning.loss))
        speed = measure_speed(start.copy(), start.data.train, recipe, start.device, start.workers, hooks)
        examples = epochs * images + method.examples(recipe, images, speed.layers)
        line += f"; about {format_duration(examples * speed.second_per_example)}, and the measuring" if examples else ""
    dense = start.metrics()
    quality = f"top-1 {dense['top1']:.2f} %, " if labeled and "top1" in dense else ""
    return [line, f"dense network: {quality}{dense['macs']:,} MACs, {dense['bytes']:,} bytes"]


def check_labels(chosen: Method, name: str, labeled: bool, recipe: TrainOptions | None) -> None:
    """Raise UserError if labels are needed and not given. recipe: fine-tuning by cross-entropy; None for another loss."""
    if labeled:
        return
    if chosen.trains:
        raise UserError(f"method {name!r}: it trains with class labels, but the data have none; use {DEFAULT}")
    if recipe is not None and recipe.epochs:
        raise UserError(
            "train: the data have no class labels; give labels, or loss= for a network that is no classifier"
        )


def labeled_by(start: TrainedModel) -> DataBundle:
    """Return data with the network's own predictions as labels, so that accuracy is agreement with it.

    The classes are those that the network's file records, or the numbers of its outputs.
    """
    data, network = start.data, start.copy()
    outputs = count_outputs(start.model, data, start.file or start.name)
    known = (getattr(start.model, "checkpoint_header", None) or {}).get("classes") or []
    classes = list(known) if len(known) == outputs else [str(label) for label in range(outputs)]
    parts: dict[str, ImageSet] = {}
    for name in ("train", "test"):
        images: ImageSet = getattr(data, name)
        images = images.with_labels(torch.zeros(len(images), dtype=torch.int64))
        found = evaluate(network, images, device=start.device, workers=start.workers)
        parts[name] = images.with_labels(found.predictions)
    return replace(data, **parts, labeled=False, classes=classes)  # type: ignore[arg-type]


def _as_recorded(model: nn.Module, data: DataBundle) -> DataBundle:
    """Return image files as a network expects them, if that is recorded with the network."""
    recorded = "preprocessing" in (getattr(model, "checkpoint_header", None) or {})
    return with_preprocessing_of(model, data) if recorded else data


def _with_all_classes(start: TrainedModel) -> DataBundle:
    """Return data with a class for every output: some may have no examples. Named classes are not changed."""
    data, outputs = start.data, count_outputs(start.model, start.data, start.name)
    numbers = [str(label) for label in range(outputs)]
    return replace(data, classes=numbers) if data.classes == numbers[: data.num_classes] else data


def _left_alone(start: TrainedModel) -> dict[str, str]:
    """Return the reasons, by group, why groups were not pruned: they cannot be, or the limits exclude them."""
    excluded = {g.name: "excluded by ignored_layers or only" for g in start.all_groups if not start.limits.allows(g)}
    return {**getattr(start.all_groups, "excluded", {}), **excluded}


def _widths(dense: nn.Module, small: nn.Module) -> list[tuple[str, int, int]]:
    """Return (layer, channels before, channels after) of the layers with weights that became narrower."""
    before, after = dict(dense.named_modules()), dict(small.named_modules())
    found = []
    for name, module in before.items():
        if "weight" in module._parameters and name in after and module.weight is not None and module.weight.dim() > 1:
            widths = len(weight_of(module)), len(weight_of(after[name]))
            if widths[0] != widths[1]:
                found.append((name, *widths))
    return found


def _quality_rows(dense: Mapping[str, Any], small: Mapping[str, Any], labeled: bool) -> list[list[str]]:
    """Return the rows (name, dense, compressed, ratio) on the quality of the outputs."""
    rows = []
    if labeled and "top1" in dense:
        rows.append(["top-1 (%)", f"{dense['top1']:.2f}", f"{small['top1']:.2f}", ""])
    if "agreement" in small:
        rows.append(["same prediction as dense (%)", "", f"{small['agreement']:.2f}", ""])
    if "metric" in dense:
        rows.append(["your metric", f"{dense['metric']:.4g}", f"{small['metric']:.4g}", ""])
    if "output_change" in small:
        rows.append(["change of the outputs (%)", "", f"{small['output_change']:.3g}", ""])
    return rows
