"""What a paper's method has to beat: channels drawn by lot, and the largest L1 norm; the same share of every group."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups, keep_channels, top_channels
from common.checkpoint import save_model
from common.cost import WidthCost
from common.formats import load_network
from common.methods import Method, Task
from common.runs import MODEL
from common.widths import uniform_widths

Score = Callable[[nn.Module, ChannelGroup, torch.Generator], Tensor]


def l1_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """(C,): sums of |w| over all that produces a channel (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    del generator
    return sum(model.get_submodule(name).weight.detach().abs().flatten(1).sum(1) for name in group.producers)


def random_scores(model: nn.Module, group: ChannelGroup, generator: torch.Generator) -> Tensor:
    """(C,): lots."""
    del model
    return torch.rand(group.size, generator=generator)


def ranked(score: Score) -> Callable[[Task], Path]:
    """A method that keeps, in every group, the same share of the channels: those with the largest scores."""

    def compress(task: Task) -> Path:
        file = task.folder / MODEL
        if file.is_file():
            return file
        model = load_network(task.baseline)
        example = torch.zeros(1, *task.data.input_shape)
        groups = channel_groups(model, example)
        widths = uniform_widths(groups, WidthCost(model, task.data.input_shape, groups), task.target)
        generator = torch.Generator().manual_seed(task.seed)
        kept = {
            g.name: top_channels(score(model, g, generator).tolist(), widths[g.name], blocks=g.blocks) for g in groups
        }
        save_model(file, keep_channels(model, example, kept))
        return file

    return compress


L1_NORM = Method("L1 norm", ranked(l1_scores))
RANDOM = Method("random", ranked(random_scores))
