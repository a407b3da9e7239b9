"""A trained network with its data: read once, checked once, measured once. What every compression method starts from."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups
from common.checkpoint import file_digest
from common.cost import WidthCost
from common.data import DataBundle, load_data
from common.errors import UserError
from common.factory import import_factory, model_from_options
from common.formats import load_network
from common.layers import placed
from common.log import Log
from common.measure import Accuracy, evaluate, measure_latency, model_metrics
from common.options import DataOptions, NetworkOptions

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Limits:
    """Which channels may be removed, and how many.

    Attributes:
        ignored: Names of groups, or of layers in them, that stay whole.
        only: Names of the groups, or of layers in them, that may lose channels; None for all.
        min_channels: Channels that stay in every group.
        max_pruned: Largest fraction of a group's channels that may be removed.
        round_to: Widths are multiples of it.
    """

    ignored: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    min_channels: int = 1
    max_pruned: float = 1.0
    round_to: int = 1

    def allow(self, group: ChannelGroup) -> bool:
        """Whether a group may lose channels."""
        names = {group.name, *group.producers}
        return not names & set(self.ignored) and (self.only is None or bool(names & set(self.only)))

    def least(self, group: ChannelGroup) -> int:
        """Channels of a group that stay at least."""
        return min(group.size, max(self.min_channels, round(group.size - self.max_pruned * group.size + 0.5 - 1e-9)))

    def check(self, kept: Mapping[str, object], groups: list[ChannelGroup]) -> None:
        """Raise UserError, naming the group, for kept channels beyond the limits. kept: {group: channel indices}."""
        known = {group.name: group for group in groups}
        for name, channels in kept.items():
            count, size = len(channels), known[name].size if name in known else None  # type: ignore[arg-type]
            if size is None or count == size:
                continue
            group = known[name]
            if not self.allow(group):
                raise UserError(f"{name} has to stay whole, and the method would keep {count} of its {size} channels")
            if count < self.least(group):
                raise UserError(
                    f"{name}: {count} of {size} channels would stay; the limits are {self.least(group)} at least"
                )
            if count % self.round_to:
                raise UserError(
                    f"{name}: {count} of {size} channels would stay, which is no multiple of {self.round_to}"
                )


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, the images that it was trained on and is tested on, and the file it came from.

    Attributes:
        name: For files: the registry's name, or that of the factory.
        model: The network, in eval mode; nobody changes or moves it (:meth:`copy`).
        data: Images, normalized as the network expects.
        file: Where it was read from; None for a network that has no file.
        factory: Builds a user's own network.
        workers: Processes that read images which do not fit in memory.
        reference: What accuracy and agreement are held against, where that is not this network: the dense network of a chain.
        limits: Which channels may be removed.
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

    @property
    def example(self) -> Tensor:
        """A batch of one (1, C, H, W), of the shape that the network reads, on its device."""
        parameter = next(self.model.parameters(), None)
        return torch.zeros(1, *self.data.input_shape, device=None if parameter is None else parameter.device)

    @property
    def arch(self) -> str | None:
        """The registry's name; None for a user's own network."""
        record = None if self.factory else getattr(self.model, "architecture", None)
        return record["arch"] if record else None

    @property
    def bytes(self) -> int:
        """Size of the file on disk; of the tensors if there is none."""
        if self.file is not None:
            return self.file.stat().st_size
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """The channel groups that may lose channels."""
        return [group for group in self.all_groups if self.limits.allow(group)]

    @cached_property
    def all_groups(self) -> list[ChannelGroup]:
        return channel_groups(self.model, self.example)

    @cached_property
    def cost(self) -> WidthCost:
        """MACs for any widths of the groups."""
        return WidthCost(self.model, self.data.input_shape, self.all_groups)

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over the network's tensors: what a run depends on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def file_digest(self) -> str:
        """The same of its file's bytes; of its tensors if there is no file."""
        return self.digest if self.file is None else file_digest(self.file)

    @cached_property
    def accuracy(self) -> Accuracy:
        """On the test images; measured once, when it is first asked for."""
        return self._evaluate(self.copy(), None)

    def copy(self) -> nn.Module:
        """A copy to compute with, on the device; channels last if it reads images."""
        return self._placed(copy.deepcopy(self.model))

    def measure(self, model: nn.Module) -> Accuracy:
        """Accuracy of another network on the same images, and its agreement with the reference."""
        return self._evaluate(self._placed(model), (self.reference or self).accuracy.predictions)

    def _placed(self, model: nn.Module) -> nn.Module:
        images = len(self.data.input_shape) == 3
        return placed(model, self.device, torch.channels_last if images else torch.preserve_format)

    def _evaluate(self, model: nn.Module, reference: Tensor | None) -> Accuracy:
        return evaluate(model, self.data.test, device=self.device, workers=self.workers, reference=reference)

    def metrics(
        self, model: nn.Module | None = None, accuracy: Accuracy | None = None, size: int = 0
    ) -> dict[str, Any]:
        """An entry of metrics.json without latency: of a network, its accuracy and its bytes; of this one if none is given."""
        if model is None or accuracy is None:
            return model_metrics(self.model, self.accuracy, self.data.input_shape, self.bytes)
        return model_metrics(model, accuracy, self.data.input_shape, size)

    def timed_metrics(self, latency: bool = True) -> dict[str, Any]:
        """The entry of this network in metrics.json, with its latency if ``latency``."""
        timed = measure_latency({"": self.copy()}, self.data.input_shape, device=self.device)[""] if latency else None
        return self.metrics() | ({} if timed is None else {"latency_ms": timed})


def print_result(label: str, metrics: Mapping[str, Mapping[str, Any]], log: Log) -> None:
    """Print the results of metrics.json: top-1 and agreement in percent, MACs and parameters in millions."""
    dense, cut, small = metrics["baseline"], metrics["after_cut"], metrics["compressed"]
    log(
        f"{label}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} % ({cut['top1']:.2f} % before fine-tuning),"
        f" agreement {small['agreement']:.2f} %"
    )
    for what in ("macs", "params"):
        gone = 100 * (1 - small[what] / dense[what])
        log(f"{label}: {what} {dense[what] / 1e6:.2f} M -> {small[what] / 1e6:.2f} M, {gone:.2f} % removed")


def with_normalization_of(model: nn.Module, data: DataBundle) -> DataBundle:
    """The data normalized as the checkpoint says, if the network came from one that does."""
    known = (getattr(model, "checkpoint_header", None) or {}).get("normalize")
    return data.with_normalization(known["mean"], known["std"]) if known else data


def checked(trained: TrainedModel) -> TrainedModel:
    """The same, in eval mode. Raises UserError, naming the file, for weights that are not finite, and for other images or classes."""
    file, data = trained.file or trained.name, trained.data
    for name, tensor in trained.model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{file}: {name} holds values that are not finite; the weights are damaged")
    _require_fit(trained.model.eval(), data, file)
    record = getattr(trained.model, "architecture", None)
    classes = record["args"].get("num_classes", data.num_classes) if record else data.num_classes
    if classes != data.num_classes:
        raise UserError(f"{file} decides among {classes} classes, {data.name} has {data.num_classes}")
    return trained


@torch.no_grad()
def _require_fit(model: nn.Module, data: DataBundle, name: object) -> None:
    """Raises UserError, naming the network's file, unless it reads the data's pictures and decides among all their classes."""
    shape, parameter = tuple(data.input_shape), next(model.parameters(), None)
    try:
        scores = model(torch.zeros(1, *shape, device=None if parameter is None else parameter.device))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{name} does not read the pictures of {data.name}, {shape}: {reason}") from error
    if scores.dim() != 2 or scores.shape[1] < data.num_classes:
        raise UserError(f"{name} gives scores {tuple(scores.shape)}; {data.name} has {data.num_classes} classes")


def read_trained_model(file: Path, data: DataBundle, **more: Any) -> TrainedModel:
    """The network of a file of any format that is installed, with data normalized as it says; checked.

    more: other fields of :class:`TrainedModel`.
    """
    model = load_network(file, more.get("factory"))
    record = getattr(model, "architecture", None)
    name = more.pop("name", None) or (record["arch"] if record and record["arch"] else file.stem)
    return checked(TrainedModel(name, model, with_normalization_of(model, data), file, **more))


def open_trained_model(network: NetworkOptions, source: DataOptions, **more: Any) -> TrainedModel:
    """The trained network that a command's options name, with its data; checked. more: other fields of :class:`TrainedModel`."""
    file = network.checkpoint or network.weights
    if not file:
        raise UserError("say which trained weights: --weights FILE (with --arch or --model) or --checkpoint FILE")
    if not Path(file).is_file():  # said before the images are read
        raise UserError(f"{file}: no such file; python -m common.fetch gets weights")
    data = load_data(source)
    model, _ = model_from_options(network, data.num_classes, data.input_shape)
    data = data if source.normalize else with_normalization_of(model, data)
    factory = import_factory(network.model, data.num_classes) if network.model else None
    record = getattr(model, "architecture", None)
    name = network.model.replace(":", ".") if network.model else (record["arch"] if record else Path(file).stem)
    return checked(TrainedModel(name, model, data, Path(file), factory, workers=source.workers, **more))
