"""One shot: from a network and unlabelled inputs to a smaller network that decides as it does. (Paper, section 3)"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.target import Target
from common.trained_model import Limits
from model_preserving_id.activations import Statistics, gather, warn_of_few_rows
from model_preserving_id.compensate import check_compensation, compensate
from model_preserving_id.damage import DAMAGE_INPUTS, first_inputs, measure_damage
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.ranking import Ranking, rank_groups
from model_preserving_id.settings import INPUTS
from model_preserving_id.widths import (
    by_budget,
    by_counts,
    by_eps,
    by_fraction,
    check_score,
    measured_loss,
    relative_loss,
)


def prune_network(
    model: nn.Module,
    example_input: Tensor,
    batches: Iterable[Tensor] | Tensor,
    kept: Mapping[str, int] | None = None,
    target_macs: float | None = None,
    *,
    keep: float | None = None,
    eps: float | None = None,
    streams: str | None = None,
    skip: Sequence[str] = (),
    round_to: int = 1,
    score: str = "measured",
    compensation: str = "weights",
    solve_inputs: int = INPUTS,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A new, smaller network whose outputs stay as near as least squares allow; no labels, no training. In eval mode.

    batches: inputs (N, ...) like ``example_input``, without labels, from the training data; read once or several times.
    Exactly one of
      kept         how many channels stay, by group name (``common.channels.channel_groups``); groups not named stay whole
      target_macs  the fraction of the MACs that stays, met within [0.98, 1.00] of it
      keep         the fraction of channels that stays in every group
      eps          |r_k+1,k+1| <= eps |r_11| in every group
    streams: all residual streams stay whole (``off``), or those with an option-A shortcut shrink, as far as that is ``exact`` or
    by a ``conv`` in the shortcut's place. Not given: ``off``, and ``exact`` with ``kept``, which may name them.
    skip: groups that stay whole. round_to: widths are multiples of it.
    score: what a step towards ``target_macs`` loses: the ``pivot`` (the paper's), the ``frobenius`` norm of what is left
    out, or the change of the outputs as ``measured`` (the best). compensation: ``none`` (the paper), ``t`` or ``weights`` (the
    best), see
    :mod:`model_preserving_id.compensate`, with the first ``solve_inputs`` inputs. device: where the arithmetic runs; the network's if not given.
    Raises UserError in one line for anything that cannot be.
    """
    if sum(choice is not None for choice in (kept, target_macs, keep, eps)) != 1:
        raise UserError("prune_network needs exactly one of kept, target_macs, keep and eps")
    check_compensation(compensation)
    check_score(score)
    target = None if target_macs is None else Target(target_macs)
    streams = streams or ("off" if kept is None else "exact")
    inputs = _checked_inputs(batches)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"the network's {name} holds infinities or nan; its weights are damaged")
    limits = Limits(ignored=tuple(skip), round_to=round_to)
    folded = FoldedNetwork(model, example_input, streams=streams, limits=limits, device=device)
    shrink_in_one_shot(folded, inputs, kept, target, keep, eps, score)
    compensate(folded, inputs, compensation, count=solve_inputs)
    return folded.pruned().to(next(model.parameters()).device)


def shrink_in_one_shot(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    kept: Mapping[str, int] | None = None,
    target: Target | None = None,
    keep: float | None = None,
    eps: float | None = None,
    score: str = "measured",
) -> None:
    """Shrink all groups, in place, from one measurement of the given network. Options as for :func:`prune_network`."""
    statistics = gather(folded.model, folded.all_readings(), inputs, device=folded.device)
    warn_of_few_rows(statistics)
    rankings = rank_groups(folded, statistics)
    if kept is not None:
        widths = by_counts(rankings, kept)
    elif target is not None:
        if score == "measured":
            loss = measured_loss(measure_damage(folded, rankings, statistics, first_inputs(inputs, DAMAGE_INPUTS)))
        else:
            loss = relative_loss(rankings, score)
        widths = by_budget(rankings, folded.macs, folded.dense_macs, target, loss)
    elif keep is not None:
        widths = by_fraction(rankings, keep)
    else:
        assert eps is not None
        widths = by_eps(rankings, eps)
    shrink_all(folded, rankings, statistics, widths)


def shrink_all(
    folded: FoldedNetwork,
    rankings: Mapping[str, Ranking],
    statistics: Mapping[str, Statistics],
    widths: Mapping[str, int],
) -> None:
    """Choose and fold in every group that loses channels."""
    for name, width in widths.items():
        if width < rankings[name].size:
            folded.shrink(name, rankings[name].kept(width), statistics[name])


def _checked_inputs(batches: Iterable[Tensor] | Tensor) -> Iterable[Tensor]:
    """Inputs without labels that can be read several times. Raises UserError for labels, and for nothing at all."""
    if isinstance(batches, Tensor):
        return [batches]
    if iter(batches) is batches:
        batches = list(batches)
    first = next(iter(batches), None)
    if first is None:
        raise UserError("there are no inputs to prune with; give at least one batch")
    if not isinstance(first, Tensor):
        raise UserError(f"batches of inputs are tensors (N, ...), without labels; got a {type(first).__name__}")
    return batches
