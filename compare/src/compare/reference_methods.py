"""Reference methods: keep random channels, or those with the largest L1 norms; the same fraction of every channel group.

Two switches make them comparable with a paper's method: the groups that are pruned (all, or all but the residual streams), and the
reconstruction of the remaining weights (none, or re-solved by least squares from unlabeled images, as in extended ID).
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, masked, top_channels
from common.channels.attention import is_called
from common.device import exact_float32
from common.importance import Score, l1_scores, random_scores
from common.methods import Decide, Decision, Method
from common.models import PadShortcut
from common.pipeline import RECALIBRATION_BATCH
from common.reconstruction.paired_calls import calls_by_layer
from common.reconstruction.refit import can_refit, refit_weight, remaining_inputs
from common.runs import Stage
from common.target import Target, uniform_widths
from common.trained_model import CALIBRATION_IMAGES, TrainedModel


def decide_by_score(score: Score, *, residual: bool = True, resolve: bool = False) -> Decide:
    """Build a decision function that keeps the same fraction of every group: the channels with the largest scores.

    Args:
        residual: Whether residual streams are pruned; they are, in any case, if a network has no other groups.
        resolve: Whether the weights of the layers that read pruned groups are re-solved by least squares.
    """

    def decide(start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
        assert target is not None
        groups = start.groups if residual else inner_groups(start.groups)
        widths = uniform_widths(groups, start.cost_of(target), target, start.limits)
        generator = torch.Generator().manual_seed(stage.seed)
        scores = {group.name: score(start.model, group, generator).tolist() for group in groups}
        kept = {g.name: top_channels(scores[g.name], widths[g.name], conv_groups=g.conv_groups) for g in groups}
        return Decision(kept, resolve_weights(start, kept, stage.seed) if resolve else None)

    return decide


def inner_groups(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return the groups that are not residual streams, whose channels are sums of several layers' outputs; all if there are none."""
    return [group for group in groups if len(group.producers) == 1] or list(groups)


@torch.no_grad()
def resolve_weights(start: TrainedModel, kept: Mapping[str, Sequence[int]], seed: int) -> nn.Module:
    """Return a copy of the network in which each layer that reads pruned groups has the unpruned network's outputs, where possible.

    From input to output, the weights of the remaining inputs are solved by least squares. The copy has all channels; those that
    are not kept must not be read.

    Args:
        kept: Channels to keep, by group name.
        seed: Selects the images.
    """
    groups = [group for group in start.groups if len(kept.get(group.name, range(group.size))) < group.size]
    model = copy.deepcopy(start.model)
    modules = dict(model.named_modules())
    consumers = {name for group in groups for name, _ in group.consumers}
    names = [
        name
        for name in modules
        if name in consumers and not isinstance(modules[name], PadShortcut) and is_called(model, name)
    ]
    masks = {
        group.name: torch.zeros(group.size).index_fill_(0, torch.tensor(kept[group.name]), 1.0) for group in groups
    }
    with exact_float32(), masked(model, groups, masks):
        for name, calls in calls_by_layer(start.model, model, names, start.example, _images(start, seed)):
            module = modules[name]
            if can_refit(module):
                refit_weight(name, module, remaining_inputs(groups, kept, name, module.weight.shape[1]), calls)
            else:
                for _ in calls:  # the next layer is only reached when all calls have been read
                    pass
    return model


def _images(start: TrainedModel, seed: int) -> list[Tensor]:
    """Sample training images by ``seed``, in batches (N, C, H, W), as extended ID samples its calibration images."""
    train = start.data.train
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(train))[: start.calibration_images])
    batches = train.subset(chosen).batches(
        RECALIBRATION_BATCH, device=start.device, workers=start.workers, channels_last=True
    )
    return [batch.images for batch in batches]


def _method(label: str, score: Score, residual: bool = True, resolve: bool = False) -> Method:
    """Build a reference method whose label and note say which groups it prunes and how it reconstructs weights."""
    groups = "prunes all channel groups, including residual streams" if residual else "residual streams are not pruned"
    weights = (
        f"the consumers' weights are re-solved by least squares with {CALIBRATION_IMAGES} unlabeled training images, as in extended ID"
        if resolve
        else "weights are not re-solved"
    )
    suffix = "" if residual else ", re-solved weights" if resolve else ", inner groups"
    note = f"{groups}; {weights}"
    return Method(
        label + suffix, decide_by_score(score, residual=residual, resolve=resolve), note=note, default=residual
    )


L1_NORM = _method("L1 norm", l1_scores)
L1_NORM_INNER = _method("L1 norm", l1_scores, residual=False)
L1_NORM_RESOLVED = _method("L1 norm", l1_scores, residual=False, resolve=True)
RANDOM = _method("random", random_scores)
RANDOM_INNER = _method("random", random_scores, residual=False)
RANDOM_RESOLVED = _method("random", random_scores, residual=False, resolve=True)
