"""Trained networks with their data, the starting point of every method; loaded, checked and measured once."""

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, ChannelGroups, channel_groups
from common.checkpoint import file_digest
from common.cost import WidthCost
from common.data import DataBundle, load_data
from common.downloads import advise_weights
from common.errors import UserError
from common.factory import factory_name, import_factory, model_from_options, weights_file
from common.formats import load_network
from common.layers import to_device
from common.limits import Limits
from common.log import Log
from common.measure import Accuracy, OutputQuality, evaluate, measure_latency, model_metrics, output_change
from common.module_state import check_finite, check_single_precision
from common.options import LATENCY_SECONDS_OF_A_RESULT, DataOptions, NetworkOptions
from common.outputs import class_scores
from common.preprocessing import from_header
from common.target import Target
from common.wrapped import plain_network

if TYPE_CHECKING:
    from common.cost.widths import TargetCost
    from common.latency_target.predict import WidthLatency

CPU = torch.device("cpu")
CHANCE_ERRORS = 2  # standard errors above chance up to which an accuracy counts as chance

CALIBRATION_IMAGES = 200
KNOWN = (
    "accuracy",
    "quality",
    "all_groups",
    "cost",
    "digest",
    "file_digest",
)  # computed once for a network and its images


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with its training and test images and its file.

    Attributes:
        name: Name in files: the registered name, or that of the factory.
        model: The network, in eval mode; it must not be modified or moved (use :meth:`copy`).
        data: Images, normalized as the network expects.
        file: File from which the network was loaded; None if there is no file.
        factory: Function that builds the user's network.
        device: Device for measurements.
        workers: Number of processes that load images which do not fit in memory.
        reference: Network that accuracy and agreement are compared with, if it is not this one: the dense network of a
            chain.
        limits: Limits on the channels that may be removed.
        calibration_images: Training images from which methods that do not train take their statistics, at most.
        metric: The user's measure of a network that is not a classifier: (network) -> value; None for a classifier.
        classifier: Whether the outputs are class scores.
        latency: Predicted time as a function of the widths, if the target is a latency.
    """

    name: str
    model: nn.Module
    data: DataBundle
    file: Path | None = None
    factory: Callable[[], nn.Module] | None = None
    device: torch.device = CPU
    workers: int = 2
    reference: "TrainedModel | None" = None
    limits: Limits = field(default_factory=Limits)
    calibration_images: int = CALIBRATION_IMAGES
    metric: Callable[[nn.Module], float] | None = None
    classifier: bool = True
    latency: "WidthLatency | None" = None

    @property
    def example(self) -> Tensor:
        """Batch of one example of zeros (1, C, H, W), on the network's device."""
        parameter = next(self.model.parameters(), None)
        return torch.zeros(1, *self.data.input_shape, device=None if parameter is None else parameter.device)

    @property
    def arch(self) -> str | None:
        """Registered name; None for a user's network."""
        record = None if self.factory else getattr(self.model, "architecture", None)
        return record["arch"] if record else None

    @property
    def bytes(self) -> int:
        """Size of the file on disk, or of the tensors if there is no file."""
        if self.file is not None:
            return self.file.stat().st_size
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """Channel groups that may be pruned."""
        return [group for group in self.all_groups if self.limits.allows(group)]

    @cached_property
    def all_groups(self) -> ChannelGroups:
        """All channel groups."""
        return channel_groups(self.model, self.example)

    @cached_property
    def cost(self) -> WidthCost:
        """MACs as a function of the widths of the groups."""
        return WidthCost(self.model, self.data.input_shape, self.all_groups)

    def cost_of(self, target: Target) -> "TargetCost":
        """Return what a target for channels is a fraction of, as a function of the widths: MACs, or the predicted time."""
        if target.axis == "latency":
            assert self.latency is not None
            return self.latency
        return self.cost

    def for_latency(self, latency: "WidthLatency", limits: Limits) -> "TrainedModel":
        """Return this network with predicted times and other limits; what was measured of it is kept."""
        return self.changed(latency=latency, limits=limits)

    def changed(self, **fields: Any) -> "TrainedModel":
        """Return this network with other fields that change neither the network nor its images; what is known of it is kept."""
        other = replace(self, **fields)
        vars(other).update({name: value for name, value in vars(self).items() if name in KNOWN})
        return other

    def groups_of(self, model: nn.Module) -> ChannelGroups | None:
        """Return all channel groups, which are also those of another network if it has the same layers, else None."""
        layers = [[(name, type(module)) for name, module in one.named_modules()] for one in (self.model, model)]
        return self.all_groups if layers[0] == layers[1] else None

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the network's tensors, which identifies a run's input."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @cached_property
    def file_digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the file, or :attr:`digest` if there is no file."""
        return self.digest if self.file is None else file_digest(self.file)

    @cached_property
    def accuracy(self) -> Accuracy:
        """Accuracy on the test images, measured at the first access."""
        return self._evaluate(self.copy(), None)

    @cached_property
    def quality(self) -> Accuracy | OutputQuality:
        """Accuracy, or the user's metric if this is not a classifier, measured at the first access."""
        return self.accuracy if self.classifier else OutputQuality(self._metric(self.copy()))

    def copy(self) -> nn.Module:
        """Copy the network to the device, channels-last if it reads images."""
        return self._to_device(copy.deepcopy(self.model))

    def measure(self, model: nn.Module) -> Accuracy:
        """Measure the accuracy of another network on the test images, and its agreement with the reference."""
        return self._evaluate(self._to_device(model), (self.reference or self).accuracy.predictions)

    def quality_of(self, model: nn.Module) -> Accuracy | OutputQuality:
        """Measure another network: its accuracy, or the user's metric and the change of the outputs on the test images."""
        if self.classifier:
            return self.measure(model)
        dense, network = self.reference or self, self._to_device(model)
        change = output_change(network, dense.copy(), self.data.test, device=self.device, workers=self.workers)
        return OutputQuality(self._metric(network), change)

    def _metric(self, network: nn.Module) -> float | None:
        return None if self.metric is None else float(self.metric(network.eval()))

    def _to_device(self, model: nn.Module) -> nn.Module:
        images = len(self.data.input_shape) == 3
        return to_device(model, self.device, torch.channels_last if images else torch.preserve_format)

    def _evaluate(self, model: nn.Module, reference: Tensor | None) -> Accuracy:
        return evaluate(model, self.data.test, device=self.device, workers=self.workers, reference=reference)

    def metrics(
        self, model: nn.Module | None = None, accuracy: Accuracy | OutputQuality | None = None, size: int = 0
    ) -> dict[str, Any]:
        """Return a network's entry in metrics.json, without latency, given its accuracy and file size; default: this one."""
        if model is None or accuracy is None:
            return model_metrics(self.model, self.quality, self.data.input_shape, self.bytes)
        return model_metrics(model, accuracy, self.data.input_shape, size)

    def timed_metrics(self, latency: bool = True) -> dict[str, Any]:
        """Return the entry of this network in metrics.json, with its latency if ``latency``."""
        if not latency:
            return self.metrics()
        timed = measure_latency(
            {"": self.copy()}, self.data.input_shape, device=self.device, seconds=LATENCY_SECONDS_OF_A_RESULT
        )
        return self.metrics() | {"latency_ms": timed.milliseconds("")}


def print_result(label: str, metrics: Mapping[str, Mapping[str, Any]], log: Log) -> None:
    """Print the results of metrics.json: top-1 and agreement in percent, MACs and parameters in millions."""
    dense, pruned, small = metrics["baseline"], metrics["after_cut"], metrics["compressed"]
    log(
        f"{label}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} % ({pruned['top1']:.2f} % before fine-tuning),"
        f" agreement {small['agreement']:.2f} %"
    )
    for key in ("macs", "params"):
        removed = 100 * (1 - small[key] / dense[key])
        log(f"{label}: {key} {dense[key] / 1e6:.2f} M -> {small[key] / 1e6:.2f} M, {removed:.2f} % removed")


def report_chance_level(trained: TrainedModel) -> bool:
    """Return whether a network is not better than always predicting the most frequent class, and warn if so.

    Its accuracy on the test images is compared with that of guessing, plus two standard errors.
    """
    if not trained.classifier or not trained.data.labeled:
        return False
    counts = torch.bincount(trained.data.test.labels)
    total, chance = int(counts.sum()), float(counts.max() / counts.sum())
    if trained.accuracy.top1 / 100 > chance + CHANCE_ERRORS * math.sqrt(chance * (1 - chance) / total):
        return False
    warnings.warn(
        f"{trained.file or trained.name}: the network is at chance level: top-1 {trained.accuracy.top1:.2f} % on {total} test "
        f"images, {100 * chance:.2f} % of which are of one class; train it first, or check the classes and the normalization",
        stacklevel=3,
    )
    return True


def with_preprocessing_of(model: nn.Module, data: DataBundle, file: object = "the network's file") -> DataBundle:
    """Return the data as the network's file, or the library of the network, records: resized, cropped and normalized.

    The user's choices come first. Raises UserError, naming ``file``, if the normalization has another number of channels.
    """
    header = getattr(model, "checkpoint_header", None) or {}
    how, known = from_header(header, file), header.get("normalize")
    try:
        if how is not None:
            return data.with_preprocessing(how)
        return data if not known or data.normalized else data.with_normalization(known["mean"], known["std"])
    except UserError as error:
        if not str(error).startswith("normalization: "):
            raise
        raise UserError(
            f"{file}: the recorded normalization does not fit {data.name}: {error}; or use --normalize"
        ) from error


def recorded_classes(model: nn.Module) -> int | None:
    """Return the number of classes that a network's file, or the library of the network, records; None if it records none."""
    return len((getattr(model, "checkpoint_header", None) or {}).get("classes") or ()) or None


def with_classes_of(model: nn.Module, data: DataBundle, source: object) -> DataBundle:
    """Return the data with labels matched by name to the classes recorded in the network's checkpoint, if there are any.

    Raises UserError, naming ``source``, for classes that the network does not have.
    """
    header = getattr(model, "checkpoint_header", None) or {}
    known = header.get("classes")
    return data.with_classes(known, source, header.get("class_ids")) if known else data


def check_trained_model(trained: TrainedModel) -> TrainedModel:
    """Check a trained network and return it, without wrappers such as torch.compile, in eval mode.

    Labels of its data become positions among the recorded classes.

    Raises UserError, naming the file, if weights are not finite or not in single precision, or the network does not fit the images or the classes.
    """
    trained = replace(trained, model=plain_network(trained.model))
    file = trained.file or trained.name
    check_finite(trained.model, file)
    check_single_precision(trained.model, file)
    fitting, found = fit_channels(trained.model.eval(), trained.data, file)
    trained = trained if fitting is trained.data else replace(trained, data=fitting)
    if not trained.classifier:
        return trained
    outputs = _count_scores(found, file)
    data = with_classes_of(trained.model, trained.data, file)
    if data.numbered and outputs > data.num_classes:
        data = data.with_classes([str(number) for number in range(outputs)], file)
    _check_outputs(outputs, data, file)
    record = getattr(trained.model, "architecture", None)
    classes = record["args"].get("num_classes", data.num_classes) if record else data.num_classes
    if classes != data.num_classes:
        raise UserError(f"{file}: the network has {classes} classes, {data.name} has {data.num_classes} classes")
    return trained if data is trained.data else replace(trained, data=data)


def check_compatible(model: nn.Module, data: DataBundle, name: object) -> DataBundle:
    """Return the data in the channels that the network reads.

    Raises UserError, naming the file, unless the network accepts the data's images and has an output per class.
    """
    data, outputs = fit_channels(model, data, name)
    _check_outputs(_count_scores(outputs, name), data, name)
    return data


def fit_channels(model: nn.Module, data: DataBundle, name: object) -> tuple[DataBundle, Any]:
    """Return the data as the network reads them, gray images in one channel or in three equal ones, and its outputs for one.

    Raises UserError, naming the file, if it accepts the images in neither way, or would read colors in one channel.
    """
    try:
        return data, _outputs(model, data, name)
    except UserError:
        # Not kept in a variable: its traceback would keep the variables of all callers, such as locks of folders.
        other = None if data.prepared else {1: 3, 3: 1}.get(data.input_shape[0])
        converted = data if other is None else replace(data, input_shape=(other, *data.input_shape[1:]))
        outputs = None if other is None else _outputs_if_accepted(model, converted, name)
        if other is None or outputs is None:
            raise
    if other == 1 and not data.is_gray():
        raise UserError(
            f"{name}: the network reads images of one channel, and those of {data.name} have colors; add --channels 1 to convert "
            "them to gray"
        )
    return data.in_channels(other), outputs


def count_outputs(model: nn.Module, data: DataBundle, name: object) -> int:
    """Return the number of class scores for an image of the data. Raises UserError if the network does not accept it."""
    return _count_scores(_outputs(model, data, name), name)


def _count_scores(outputs: Any, name: object) -> int:
    try:
        return class_scores(outputs).shape[1]
    except UserError as error:
        raise error if str(error).startswith(f"{name}: ") else UserError(f"{name}: {error}") from error


def _outputs_if_accepted(model: nn.Module, data: DataBundle, name: object) -> Any:
    try:
        return _outputs(model, data, name)
    except UserError:
        return None


@torch.no_grad()
def _outputs(model: nn.Module, data: DataBundle, name: object) -> Any:
    """Return a network's outputs for an image of the data. Raises UserError if the network does not accept it."""
    shape, parameter = tuple(data.input_shape), next(model.parameters(), None)
    example = torch.zeros(1, *shape, device=None if parameter is None else parameter.device)
    modes = {module: module.training for module in model.modules()}
    try:
        return model.eval()(example)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{name}: the network does not accept the images of {data.name}, {shape}: {reason}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_outputs(outputs: int, data: DataBundle, name: object) -> None:
    """Raise UserError for fewer outputs than classes; warn if there are more."""
    if outputs < data.num_classes:
        raise UserError(
            f"{name}: the outputs have shape {(1, outputs)}, but {data.name} has {data.num_classes} classes"
        )
    if outputs > data.num_classes:
        warnings.warn(
            f"{name}: the network has {outputs} outputs, but {data.name} has {data.num_classes} classes; label c is taken for "
            "output c",
            stacklevel=4,
        )


def read_trained_model(file: Path, data: DataBundle, **more: Any) -> TrainedModel:
    """Load and check a network from a file in any installed format; its normalization is applied to the data.

    more: further fields of :class:`TrainedModel`.
    """
    model = load_network(file, more.get("factory"))
    record = getattr(model, "architecture", None)
    name = more.pop("name", None) or (record["arch"] if record and record["arch"] else file.stem)
    return check_trained_model(TrainedModel(name, model, with_preprocessing_of(model, data, file), file, **more))


def open_trained_model(
    network: NetworkOptions,
    source: DataOptions,
    *,
    relabel: Callable[[TrainedModel], DataBundle] | None = None,
    test_only: bool = False,
    **more: Any,
) -> TrainedModel:
    """Load and check the network and data of a command's options.

    Args:
        relabel: Function that returns the data with labels of the network's own classes, if those of the data are others.
        test_only: Whether data without training images are accepted.
        more: Further fields of :class:`TrainedModel`.
    """
    file = network.checkpoint or network.weights
    if not file:
        raise UserError("no trained weights given: use --weights FILE (with --arch or --model) or --checkpoint FILE")
    if network.weights and network.model:
        file = str(weights_file(network.model, network.weights))
    if not Path(file).is_file():  # checked before the images are read
        arch = None if network.model or network.shortcut == "conv3x3" else network.arch
        advice = advise_weights(file, arch, source.dataset) if network.weights else "give an existing file"
        raise UserError(f"{file}: no such file; {advice}")
    if network.model:
        import_factory(network.model)  # also before
    data = load_data(source, test_only)
    classes = data.num_classes if relabel is None and not (data.numbered and network.model) else None
    model, _ = model_from_options(network, classes, data.input_shape)
    data = with_preprocessing_of(model, data, file)
    factory = import_factory(network.model, recorded_classes(model) or classes) if network.model else None
    record = getattr(model, "architecture", None)
    name = factory_name(network.model) if network.model else (record["arch"] if record else Path(file).stem)
    trained = TrainedModel(name, model.eval(), data, Path(file), factory, workers=source.workers, **more)
    return check_trained_model(trained if relabel is None else replace(trained, data=relabel(trained)))
