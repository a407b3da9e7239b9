"""Importance of channels by name: the criteria by which channels are chosen where no method decides."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.channels.resize import output_rows
from common.errors import UserError
from common.methods import installed_methods
from common.trained_model import TrainedModel

Score = Callable[[nn.Module, ChannelGroup, torch.Generator], Tensor]


def l1_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """Return the L1 norm of each channel's weights, summed over its producers, shape (C,).

    Li et al. 2017, arXiv 1608.08710, section 3.1.
    """
    del generator
    weights = ((name, output_rows(model.get_submodule(name)).detach()) for name in group.producers)
    norms = (group.per_channel(name, weight.abs().flatten(1).sum(1)) for name, weight in weights)
    return sum(norms, torch.zeros(()))


def random_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """Return uniform random scores, shape (C,)."""
    del model
    return torch.rand(group.size, generator=generator)


CRITERIA: Mapping[str, Score] = {"l1_norm": l1_scores, "random": random_scores}


def channel_scores(start: TrainedModel, criterion: str, seed: int = 0) -> dict[str, Tensor]:
    """Return the scores (C,) of the channels of every group that may be pruned and that the criterion can rank.

    Args:
        criterion: A name of ``CRITERIA``, or of an installed method that ranks channels (``Method.scores``).

    Raises:
        UserError: If there is no such criterion.
    """
    if criterion in CRITERIA:
        generator = torch.Generator().manual_seed(seed)
        return {group.name: CRITERIA[criterion](start.model, group, generator) for group in start.groups}
    ranking = {name: method for name, method in installed_methods().items() if method.scores}
    if criterion not in ranking:
        known = ", ".join([*CRITERIA, *ranking])
        raise UserError(f"criterion {criterion!r}: not one that ranks channels; use one of {known}")
    scores = ranking[criterion].scores
    assert scores is not None
    return dict(scores(start, seed))
