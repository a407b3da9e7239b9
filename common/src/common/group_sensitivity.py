"""Sensitivity of channel groups: what removing a fraction of one group's channels changes, without training.

Channels are masked where they are read, which gives the outputs of the pruned network, so that no network is built. A residual stream is
one group with all layers that add to it: masking the outputs of one of them leaves the others in the sum, and makes the stream look robust.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.channels import ChannelGroup, masked, top_channels
from common.device import exact_float32
from common.errors import UserError
from common.importance import channel_scores
from common.limits import Limits
from common.markdown import markdown_table, pad_table
from common.outputs import first_output
from common.replay import Replay
from common.trained_model import TrainedModel

BATCH = 125  # images whose feature maps are kept in memory
LARGEST_BATCH_PIXELS = 8 * 3 * 224 * 224  # of all channels: about 0.7 GB of feature maps of ResNet-50
PLOTTED = 60  # groups
PROBE = 2  # images, from which the order of the calls is found


@dataclass(frozen=True)
class SensitivityPoint:
    """A fraction of a group's channels that was removed, and its effect.

    Attributes:
        fraction: Requested fraction.
        removed: Number of channels; at least one, at most all but one, and as many as the limits of the network allow.
        macs_saved: Fraction of the network's MACs.
        output_change: Distance of the outputs from the dense network's, in percent of their norm.
        agreement: Percent of the images with the dense network's prediction; None if the outputs are no class scores.
        top1: Percent of the images; None without labels.
    """

    fraction: float
    removed: int
    macs_saved: float
    output_change: float
    agreement: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class GroupSensitivity:
    """Sensitivity of one group.

    Attributes:
        group: Name of the group.
        producers: All layers that produce its channels; several for a residual stream.
        channels: Number of channels.
        points: One per fraction, ascending.
    """

    group: str
    producers: tuple[str, ...]
    channels: int
    points: tuple[SensitivityPoint, ...]

    @property
    def score(self) -> float:
        """Mean over the fractions of the lost agreement, or of the change of the outputs if there is no agreement, in percent."""
        lost = [point.output_change if point.agreement is None else 100 - point.agreement for point in self.points]
        return sum(lost) / len(lost)

    @property
    def label(self) -> str:
        """Name, with the number of further producers of a residual stream."""
        others = len(self.producers) - 1
        return f"{self.group} + {others} more" if others else self.group


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of all groups of a network, the most sensitive first.

    Attributes:
        network: Name of the network.
        dataset: Name of the data.
        images: Number of images.
        part: "train" or "test".
        criterion: Criterion by which channels were chosen.
        top1: Percent of the images, of the dense network; None without labels.
        groups: Most sensitive first.
        skipped: Groups that the criterion cannot rank.
    """

    network: str
    dataset: str
    images: int
    part: str
    criterion: str
    top1: float | None
    groups: tuple[GroupSensitivity, ...]
    skipped: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        first = self.groups[0].points
        shown = [name for name in ("top1", "agreement") if getattr(first[0], name) is not None][:1] + ["output_change"]
        dense = "" if self.top1 is None else f"; the dense network: {self.top1:.1f}"
        lines = [
            f"{self.network}, {self.images:,} {self.part} images of {self.dataset}, channels removed by {self.criterion}, most "
            "sensitive groups first",
            f"{' / '.join(NAMES[name] for name in shown)} without a fraction of a group's channels{dense}",
        ]
        head = ["group", "channels", *(f"-{100 * point.fraction:g} %" for point in first)]
        rows = [
            [one.label, one.channels]
            + [" / ".join(f"{getattr(point, name):.1f}" for name in shown) for point in one.points]
            + [f"{100 * one.points[-1].macs_saved:.1f}"]
            for one in self.groups
        ]
        saved = f"MACs saved at -{100 * first[-1].fraction:g} % (%)"
        lines.append(pad_table(markdown_table([*head, saved], rows)).rstrip("\n"))
        if self.skipped:
            lines.append(f"not ranked by {self.criterion}: {', '.join(self.skipped)}")
        return "\n".join(lines)

    def plot(self, path: Path | str) -> None:
        """Plot the groups in this order, at most the first 60: one row per group, one point per fraction (.svg, .png, .pdf)."""
        from common.plots import COLORS, figure

        groups = self.groups[:PLOTTED]
        name = next(n for n in ("top1", "agreement", "output_change") if getattr(groups[0].points[0], n) is not None)
        with figure(path, height=1.6 + 0.22 * len(groups)) as axes:
            rows = range(len(groups))
            values = [[getattr(point, name) for point in group.points] for group in groups]
            axes.hlines(rows, [min(of) for of in values], [max(of) for of in values], color="#d9d9d9", zorder=1)
            for i, point in enumerate(groups[0].points):
                axes.scatter(
                    [of[i] for of in values],
                    rows,
                    s=26,
                    color=COLORS[i % len(COLORS)],
                    label=f"{100 * point.fraction:g} %",
                    zorder=2,
                )
            axes.set_yticks(rows, [group.label for group in groups], fontsize=8)
            axes.invert_yaxis()
            axes.set_xlabel(f"{NAMES[name]} without retraining")
            if name == "top1" and self.top1 is not None:
                axes.axvline(self.top1, color="#000000", linewidth=0.8, linestyle=":", label="dense")
            if name == "output_change":
                axes.set_xscale("symlog", linthresh=1.0)
            axes.legend(
                title="channels removed",
                loc="upper center",
                bbox_to_anchor=(0.5, -0.6 / (0.22 * len(groups) + 0.8)),
                ncols=6,
            )
            axes.set_title(f"{self.network}: most sensitive groups first", fontsize=10)


NAMES = {
    "top1": "top-1 (%)",
    "agreement": "agreement with the dense network (%)",
    "output_change": "change of the outputs (%)",
}


def measure_group_sensitivity(
    trained: TrainedModel,
    fractions: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    *,
    images: int = 500,
    criterion: str = "l1_norm",
    part: str = "train",
    seed: int = 0,
) -> Sensitivity:
    """Measure the sensitivity of every group that may be pruned: see :func:`common.sensitivity.sensitivity`."""
    fractions = sorted(set(fractions))
    if not fractions or not 0 < fractions[0] <= fractions[-1] < 1:
        raise UserError(f"fractions {', '.join(map(str, fractions)) or '(none)'}: give one or more, in (0, 1)")
    scores = channel_scores(trained, criterion, seed)
    groups = [group for group in trained.groups if group.name in scores]
    if not groups:
        raise UserError(
            f"{trained.file or trained.name}: no channel group can be pruned; python -m common.channels lists the reasons"
        )
    removed = {
        group.name: [_removed(group, scores[group.name], f, trained.limits) for f in fractions] for group in groups
    }
    sums = _measure(trained, groups, removed, _choose(trained, part, images, seed), f"{part} images")
    found = [
        GroupSensitivity(
            group.name,
            tuple(group.producers),
            group.size,
            tuple(
                _point(trained, group, fraction, mask, sums.points[group.name][i], sums)
                for i, (fraction, mask) in enumerate(zip(fractions, removed[group.name], strict=True))
            ),
        )
        for group in groups
    ]
    found.sort(key=lambda one: (-one.score, -sum(point.output_change for point in one.points)))
    skipped = tuple(group.name for group in trained.groups if group.name not in scores)
    return Sensitivity(trained.name, trained.data.name, sums.count, part, criterion, sums.top1, tuple(found), skipped)


def _removed(group: ChannelGroup, scores: Tensor, fraction: float, limits: Limits) -> Tensor:
    """Return a mask (C,): 0 for the channels of the smallest scores, 1 for the others.

    The number of channels is rounded to an allowed width, with at least one step removed.
    """
    narrower = limits.widths(group)[:-1] or (group.size,)
    wanted = group.size - max(1, round(fraction * group.size))
    count = next((width for width in narrower if width >= wanted), narrower[-1])
    kept = top_channels(scores.tolist(), count, conv_groups=group.conv_groups)
    return torch.zeros(group.size).index_fill_(0, torch.tensor(kept), 1.0)


def _choose(trained: TrainedModel, part: str, count: int, seed: int) -> Any:
    """Sample images of a part of the data by ``seed``, in the data's order."""
    of = getattr(trained.data, part)
    order = torch.randperm(len(of), generator=torch.Generator().manual_seed(seed))[:count]
    return of.subset(order.sort().values)


@dataclass
class _Sums:
    """Sums over the images: of the dense network, and by group and fraction."""

    count: int
    norm: float
    hits: float | None
    points: dict[str, list[list[float]]]  # squared change of the outputs, equal predictions, correct predictions

    @property
    def top1(self) -> float | None:
        return None if self.hits is None else 100 * self.hits / self.count


@torch.no_grad()
def _measure(
    trained: TrainedModel,
    groups: Sequence[ChannelGroup],
    masks: Mapping[str, Sequence[Tensor]],
    images: Any,
    what: str,
) -> _Sums:
    model = trained.copy().eval()
    modules = dict(model.named_modules())
    changed = {group.name: [name for name, _ in group.consumers] + _layer_norms(modules, group) for group in groups}
    sums = _Sums(0, 0.0, 0.0, {group.name: [[0.0, 0.0, 0.0] for _ in masks[group.name]] for group in groups})
    replay: Replay | None = None
    classes = True
    size = max(1, LARGEST_BATCH_PIXELS // max(1, trained.example[0][0].numel()))
    batches = images.batches(min(BATCH, size), device=trained.device, workers=trained.workers, channels_last=True)
    total = -(-len(images) // min(BATCH, size)) * len(groups)
    with exact_float32(), tqdm(total=total, desc=f"sensitivity, {what}", disable=None, leave=False) as bar:
        for batch in batches:
            replay = replay or Replay(model, batch.images[:PROBE])
            dense = first_output(replay.record(batch.images)).double()
            classes = dense.dim() == 2
            labels = batch.labels if trained.data.labeled and isinstance(batch.labels, Tensor) and classes else None
            sums.count += len(batch.images)
            sums.norm += float(dense.square().sum())
            if labels is None or bool((labels < 0).any()):
                labels = sums.hits = None
            elif sums.hits is not None:
                sums.hits += float((dense.argmax(1) == labels).sum())
            for group in groups:
                for mask, point in zip(masks[group.name], sums.points[group.name], strict=True):
                    with masked(model, [group], {group.name: mask.to(trained.device)}):
                        outputs = first_output(replay.from_layers(batch.images, changed[group.name])).double()
                    point[0] += float((outputs - dense).square().sum())
                    if classes:
                        point[1] += float((outputs.argmax(1) == dense.argmax(1)).sum())
                        point[2] += 0.0 if labels is None else float((outputs.argmax(1) == labels).sum())
                bar.update()
    if not classes:
        sums.hits = None
        for points in sums.points.values():
            for point in points:
                point[1] = -1.0
    return sums


def _layer_norms(modules: Mapping[str, nn.Module], group: ChannelGroup) -> list[str]:
    """Return the layer norms that normalize a group's channels: their outputs change with the mask."""
    return [name for name in group.pass_through if isinstance(modules[name], nn.LayerNorm)]


def _point(
    trained: TrainedModel, group: ChannelGroup, fraction: float, mask: Tensor, sums: Sequence[float], all_sums: _Sums
) -> SensitivityPoint:
    kept = int(mask.sum())
    change, same, hits = sums
    norm = all_sums.norm**0.5
    return SensitivityPoint(
        fraction,
        group.size - kept,
        round(1 - trained.cost.macs({group.name: kept}) / trained.cost.dense, 6),
        round(100 * change**0.5 / norm, 6) if norm else 0.0,
        None if same < 0 else round(100 * same / all_sums.count, 4),
        None if all_sums.hits is None else round(100 * hits / all_sums.count, 4),
    )
