"""One shot: from a network and unlabelled inputs to a smaller network that decides as it does. (Paper, section 3)"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError
from model_preserving_id.activations import Statistics, gather, warn_of_few_rows
from model_preserving_id.compensate import check_compensation, compensate
from model_preserving_id.damage import DAMAGE_INPUTS, first_inputs, measure_damage
from model_preserving_id.ranking import Ranking, rank_groups
from model_preserving_id.settings import INPUTS
from model_preserving_id.subject import Subject, checked_inputs, finite
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
    streams = streams or ("off" if kept is None else "exact")
    inputs = checked_inputs(batches)
    finite(model)
    home = next(model.parameters()).device
    device = home if device is None else torch.device(device)
    subject = Subject(model.to(device), example_input.to(device), streams=streams, skip=skip)
    statistics = gather(subject.model, subject.all_readings(), inputs, device=device)
    warn_of_few_rows(statistics)
    rankings = rank_groups(subject, statistics, round_to)
    if kept is not None:
        widths = by_counts(rankings, kept)
    elif target_macs is not None:
        if score == "measured":
            loss = measured_loss(measure_damage(subject, rankings, statistics, first_inputs(inputs, DAMAGE_INPUTS)))
        else:
            loss = relative_loss(rankings, score)
        widths = by_budget(rankings, subject.macs, subject.dense_macs, target_macs, loss)
    elif keep is not None:
        widths = by_fraction(rankings, keep)
    else:
        widths = by_eps(rankings, eps)
    shrink_all(subject, rankings, statistics, widths)
    compensate(subject, inputs, compensation, count=solve_inputs)
    model.to(home)
    return subject.cut().to(home)


def shrink_all(
    subject: Subject, rankings: Mapping[str, Ranking], statistics: Mapping[str, Statistics], widths: Mapping[str, int]
) -> None:
    """Choose and fold in every group that loses channels."""
    for name, width in widths.items():
        if width < rankings[name].size:
            subject.shrink(name, rankings[name].kept(width), statistics[name])
