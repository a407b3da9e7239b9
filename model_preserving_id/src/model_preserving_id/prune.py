"""One-shot pruning of a network with unlabeled images. (Paper, section 3)"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.atomic import write_json
from common.cost import count_cost
from common.data.batches import take_images
from common.errors import RunFolderError, UserError
from common.limits import Limits
from common.module_state import check_finite
from common.runs import read_json
from common.target import Target
from common.wrapped import plain_network
from model_preserving_id.activations import (
    GramStatistics,
    gather_statistics,
    groups_with_few_rows,
    warn_of_few_rows,
)
from model_preserving_id.channel_ranking import ChannelRanking, rank_groups
from model_preserving_id.compensate import check_compensation, compensate
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.output_selection import rank_by_outputs
from model_preserving_id.sensitivity import SENSITIVITY_IMAGES, WithoutFirst, measure_sensitivity
from model_preserving_id.settings import RECONSTRUCTION_IMAGES, SELECTIONS
from model_preserving_id.width_allocation import (
    check_score,
    error_score,
    sensitivity_score,
    widths_from_counts,
    widths_from_eps,
    widths_from_fraction,
    widths_from_target,
)

HELD_OUT = 0.3  # fraction of the images on which sensitivities are measured, if channels are selected by the outputs


def prune_network(
    model: nn.Module,
    example_input: Tensor,
    batches: Iterable[Tensor] | Tensor,
    kept: Mapping[str, int] | None = None,
    target_macs: float | None = None,
    *,
    keep: float | None = None,
    eps: float | None = None,
    residual: str | None = None,
    ignored_layers: Sequence[str] = (),
    round_to: int = 1,
    score: str = "output-change",
    selection: str | None = None,
    compensation: str = "weights",
    reconstruction_images: int = RECONSTRUCTION_IMAGES,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Prune channels by interpolative decomposition and return a new, smaller network in eval mode.

    The given model is not modified; wrappers such as torch.compile are removed. Labels and training are not needed. Exactly one of ``kept``, ``target_macs``, ``keep`` and
    ``eps`` must be given. (Chee et al. 2022, section 3)

    Args:
        example_input: Batch of the shape that the network reads, e.g. (1, 3, 32, 32).
        batches: Training images, batches of shape (N, ...), without labels. Iterated one or more times.
        kept: Number of channels to keep, by group name (see :func:`common.channels.channel_groups`). Other groups keep all channels.
        target_macs: Fraction F of the MACs to keep; the result has between 0.98 F and F.
        keep: Fraction of channels to keep in every group.
        eps: Largest relative pivot error |r_{k+1,k+1}| / |r_11| in every group.
        residual: Residual streams, i.e. the channels that are summed by a stage's skip connections: ``"keep"`` does not prune
            them; ``"exact"`` prunes them, but removes only duplicates and dead channels where an option-A shortcut reads them;
            ``"conv"`` prunes them and replaces option-A shortcuts by 1x1 convolutions. The default is ``"keep"``, or
            ``"exact"`` if ``kept`` is given.
        ignored_layers: Groups that are not pruned, by the name of a producer.
        round_to: Widths are multiples of this number.
        score: Criterion that distributes ``target_macs`` over groups: ``"pivot"`` (the paper), ``"frobenius"``, or
            ``"output-change"``, the measured change of the network's outputs (default).
        selection: Channels that stay: ``"id"`` (the paper), or ``"outputs"``: see :mod:`model_preserving_id.output_selection`.
            The default is ``"outputs"`` if ``target_macs`` is given, else ``"id"``.
        compensation: ``"none"`` (the paper), ``"t"`` or ``"weights"`` (default): see :mod:`model_preserving_id.compensate`.
        reconstruction_images: Number of images used for the compensation.
        device: Device for the computation; by default the network's.

    Raises:
        UserError: If the arguments are invalid, or the target cannot be reached or is missed.
    """
    if sum(choice is not None for choice in (kept, target_macs, keep, eps)) != 1:
        raise UserError("prune_network: expected exactly one of kept, target_macs, keep and eps")
    check_compensation(compensation)
    check_score(score)
    selection = selection or ("id" if target_macs is None else "outputs")
    if selection not in SELECTIONS:
        raise UserError(f"selection {selection}: expected one of {', '.join(SELECTIONS)}")
    target = None if target_macs is None else Target(target_macs)
    residual = residual or ("keep" if kept is None else "exact")
    model = plain_network(model)
    inputs = _check_inputs(batches, example_input, next((p.dtype for p in model.parameters()), torch.float32))
    check_finite(model, "prune_network")
    limits = Limits(ignored=tuple(ignored_layers), round_to=round_to)
    folded = FoldedNetwork(model, example_input, residual=residual, limits=limits, device=device)
    if target is not None:
        target.require_groups(list(folded.groups.values()))
    prune_one_shot(folded, inputs, kept, target, keep, eps, score, selection)
    compensate(folded, inputs, compensation, count=reconstruction_images)
    pruned = folded.build_pruned().to(next(model.parameters()).device)
    if target is not None:
        target.check(count_cost(pruned, example_input.shape[1:]).macs / folded.dense_macs)
    return pruned


def prune_one_shot(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    kept: Mapping[str, int] | None = None,
    target: Target | None = None,
    keep: float | None = None,
    eps: float | None = None,
    score: str = "output-change",
    selection: str = "id",
    shared: Path | None = None,
) -> None:
    """Prune all groups, in place, with statistics of the unpruned network. Options as in :func:`prune_network`.

    shared: File of the sensitivities, which do not depend on the target: read if it exists, else written.
    """
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), inputs, device=folded.device)
    rankings, by_id = _rank(folded, statistics, selection)
    if by_id:
        warnings.warn(f"selected by ID, because of the layers that read them: {', '.join(by_id)}", stacklevel=3)
    few = groups_with_few_rows(statistics)
    rest = {name: one for name, one in rankings.items() if name not in few}
    smallest = folded.spent({name: one.widths[0] for name, one in rest.items()})
    if few and target is not None and smallest <= target.fraction * folded.dense_spent:
        warn_of_few_rows(statistics, few, "not pruned: ")
        rankings = rest
    elif few:
        warn_of_few_rows(statistics, few)
    if kept is not None:
        widths = widths_from_counts(rankings, kept)
    elif target is not None:
        if score == "output-change":
            step_score = sensitivity_score(_sensitivity(folded, rankings, statistics, inputs, selection, shared))
        else:
            step_score = error_score(rankings, score)
        widths = widths_from_target(rankings, folded.spent, folded.dense_spent, target, step_score)
    elif keep is not None:
        widths = widths_from_fraction(rankings, keep)
    else:
        assert eps is not None
        widths = widths_from_eps(rankings, eps)
    prune_all(folded, rankings, statistics, widths)


def _rank(
    folded: FoldedNetwork, statistics: Mapping[str, GramStatistics], selection: str
) -> tuple[dict[str, ChannelRanking], list[str]]:
    """Return the rankings by ``selection``, and the groups that are ranked by ID although it is another one."""
    return (rank_groups(folded, statistics), []) if selection == "id" else rank_by_outputs(folded, statistics)


def _sensitivity(
    folded: FoldedNetwork,
    rankings: Mapping[str, ChannelRanking],
    statistics: Mapping[str, GramStatistics],
    inputs: Iterable[Tensor],
    selection: str,
    shared: Path | None,
) -> dict[str, list[float]]:
    """Read the sensitivities of the ranked groups, or measure and write them."""
    sensitivity = _read_sensitivity(folded, shared, list(rankings))
    if sensitivity is not None:
        return sensitivity
    if selection == "id":
        images = take_images(inputs, SENSITIVITY_IMAGES)
        sensitivity = measure_sensitivity(folded, rankings, statistics, images)
    else:
        sensitivity = _measure_on_others(folded, list(rankings), inputs, selection)
    if shared is not None:
        write_json(shared, {"measured": folded.sensitivity, "sensitivity": sensitivity})
    return sensitivity


def _read_sensitivity(folded: FoldedNetwork, file: Path | None, names: Sequence[str]) -> dict[str, list[float]] | None:
    """Read the sensitivities of these groups; None without a file, or if it is of other groups."""
    if file is None or not file.is_file():
        return None
    try:
        content = read_json(file)
        measured = {name: {int(width): x for width, x in one.items()} for name, one in content["measured"].items()}
        sensitivity = {name: [float(x) for x in content["sensitivity"][name]] for name in content["sensitivity"]}
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise RunFolderError(f"{file}: the file is damaged; delete it to start again") from error
    if list(sensitivity) != list(names):
        return None
    folded.sensitivity |= measured
    return sensitivity


def _measure_on_others(
    folded: FoldedNetwork, names: Sequence[str], inputs: Iterable[Tensor], selection: str
) -> dict[str, list[float]]:
    """Measure the sensitivities of these groups on other images than those that T and the rankings are computed from.

    On the same images, layers with few rows per image seem to need fewer channels than they do: the last layers, if they are
    small maps of hundreds of channels. Fewer than four images are not divided.
    """
    count = min(SENSITIVITY_IMAGES, int(HELD_OUT * sum(map(len, inputs))))
    images, others = take_images(inputs, count or SENSITIVITY_IMAGES), WithoutFirst(inputs, count)
    statistics = gather_statistics(folded.model, folded.consumer_inputs(names), others, device=folded.device)
    rankings = _rank(folded, statistics, selection)[0]
    return measure_sensitivity(folded, {name: rankings[name] for name in names}, statistics, images)


def prune_all(
    folded: FoldedNetwork,
    rankings: Mapping[str, ChannelRanking],
    statistics: Mapping[str, GramStatistics],
    widths: Mapping[str, int],
) -> None:
    """Prune every group to its width."""
    for name, width in widths.items():
        if width < rankings[name].size:
            folded.prune_group(name, rankings[name].kept(width), statistics[name])


def _check_inputs(batches: Iterable[Tensor] | Tensor, example: Tensor, dtype: torch.dtype) -> Iterable[Tensor]:
    """Return batches that can be read several times, and are checked as they are read. Raises UserError if there are none.

    dtype: type of the network's weights, which images must have; inputs of another kind must have that of the example.
    """
    if isinstance(batches, Tensor):
        batches = [batches]
    if iter(batches) is batches:
        batches = list(batches)
    checked = _CheckedBatches(batches, dtype if example.is_floating_point() else example.dtype, tuple(example.shape))
    if next(iter(checked), None) is None:
        raise UserError("batches: no images given; give at least one batch")
    return checked


@dataclass(frozen=True)
class _CheckedBatches:
    """Batches of one type; iterating raises UserError for labels, another type or shape, and values that are not finite."""

    batches: Iterable[Tensor]
    dtype: torch.dtype
    shape: tuple[int, ...]  # of the example input

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            if not isinstance(batch, Tensor):
                raise UserError(f"batches: expected tensors (N, ...), without labels; got {type(batch).__name__}")
            if batch.dtype != self.dtype:
                raise UserError(
                    f"batches: the images are {batch.dtype}, the network computes in {self.dtype}; convert them, and normalize "
                    "them as for training"
                )
            if batch.dim() != len(self.shape) or batch.shape[1:2] != self.shape[1:2]:
                raise UserError(
                    f"batches: the images have shape {tuple(batch.shape)}, the example input has {self.shape}; give batches "
                    "with the same dimensions and channels"
                )
            if not torch.isfinite(batch).all():
                raise UserError("batches: the images contain infinities or nan; remove them")
            yield batch
