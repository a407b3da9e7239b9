"""Reference methods: keep random channels, or those with the largest L1 norms; the same fraction of every channel group."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, top_channels
from common.layers import weight_of
from common.methods import Decide, Decision, Method
from common.runs import Stage
from common.target import Target, uniform_widths
from common.trained_model import TrainedModel

Score = Callable[[nn.Module, ChannelGroup, torch.Generator], Tensor]


def l1_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """Return the L1 norm of each channel's weights, summed over its producers, shape (C,).

    Li et al. 2017, arXiv 1608.08710, section 3.1.
    """
    del generator
    weights = (weight_of(model.get_submodule(name)).detach() for name in group.producers)
    return sum((weight.abs().flatten(1).sum(1) for weight in weights), torch.zeros(()))


def random_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """Return uniform random scores, shape (C,)."""
    del model
    return torch.rand(group.size, generator=generator)


def decide_by_score(score: Score) -> Decide:
    """Build a decision function that keeps the same fraction of every group: the channels with the largest scores."""

    def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
        assert target is not None
        widths = uniform_widths(start.groups, start.cost, target, start.limits.round_to)
        generator = torch.Generator().manual_seed(stage.seed)
        scores = {group.name: score(start.model, group, generator).tolist() for group in start.groups}
        return Decision(
            {g.name: top_channels(scores[g.name], widths[g.name], conv_groups=g.conv_groups) for g in start.groups}
        )

    return decide


L1_NORM = Method("L1 norm", decide_by_score(l1_scores))
RANDOM = Method("random", decide_by_score(random_scores))
