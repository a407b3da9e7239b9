"""From a network and images to the evidence on its filters: how similar their maps are, and how large they are.

Filters that are tied (all layers that add into one residual stream) are one decision. It is made on the maps and weights of
the group's decider: the stem for the first stage, the shortcut's convolution where there is one, else the first block's last
convolution; or, with ``all``, on the joint evidence of every layer of the group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.errors import UserError
from common.layers import weight_of
from common.trained_model import TrainedModel
from redundancy_graph.features import choose_pictures, collect_hashes
from redundancy_graph.settings import Decisions
from redundancy_graph.similarity import agreement_counts


@dataclass(frozen=True)
class Evidence:
    """What a decision rests on: similarities (C, C), the bits behind each of them, and L1 norms (C,) of the filters."""

    group: str
    layer: str
    producers: tuple[str, ...]
    similarity: np.ndarray
    bits: int
    l1_norms: np.ndarray


def gather(start: TrainedModel, how: Decisions, mini_batch: int, seed: int) -> list[Evidence]:
    """Similarities and norms of every group that decides, from one pass over ``mini_batch`` training images."""
    pictures = choose_pictures(start.data.train, mini_batch, seed)
    layers = layers_to_hash(start.model, start.groups, how.decider)
    hashes = collect_hashes(
        start.model,
        pictures,
        layers,
        device=start.device,
        workers=start.workers,
        bn_mode=how.bn_mode,
        augment=how.augment,
    )
    return gather_evidence(start.model, start.groups, hashes, how.decider)


def deciding_groups(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
    """The groups that the method decides, by the name of the layer that decides: those with a convolution in them.

    Groups made by linear layers alone have no maps. Groups that a grouped convolution ties into equal runs are left whole:
    the method does not choose how many to keep. Raises UserError if nothing is left to decide.
    """
    found = {}
    for group in groups:
        convolutions = _convolutions(model, group)
        if convolutions and group.conv_groups == 1:
            found[group.reference_layer if group.reference_layer in convolutions else convolutions[0]] = group
    if not found:
        raise UserError("this network has no convolution whose filters could be removed")
    return found


def layers_to_hash(model: nn.Module, groups: Sequence[ChannelGroup], decider: str = "nearest") -> list[str]:
    """The layers whose maps :func:`gather_evidence` needs."""
    deciding = deciding_groups(model, groups)
    if decider == "nearest":
        return list(deciding)
    return [name for group in deciding.values() for name in _convolutions(model, group)]


def gather_evidence(
    model: nn.Module, groups: Sequence[ChannelGroup], hashes: Mapping[str, Tensor], decider: str = "nearest"
) -> list[Evidence]:
    """Similarities and norms per deciding group. With ``all`` agreeing bits and L1 norms are summed over its layers."""
    modules = dict(model.named_modules())
    evidence = []
    for layer, group in deciding_groups(model, groups).items():
        witnesses = [layer] if decider == "nearest" else _convolutions(model, group)
        counted = [agreement_counts(hashes[name]) for name in witnesses]
        bits = sum(total for _, total in counted)
        similarity = sum((counts for counts, _ in counted), np.zeros((), np.int64)) / bits
        norms = sum((l1_norms(modules[name]) for name in witnesses), np.zeros(()))
        evidence.append(Evidence(group.name, layer, tuple(group.producers), similarity, bits, norms))
    return evidence


def l1_norms(layer: nn.Module) -> np.ndarray:
    """Sum of absolute weights of each filter, (C,), float64; biases do not count."""
    return weight_of(layer).detach().double().abs().flatten(1).sum(1).cpu().numpy()


def _convolutions(model: nn.Module, group: ChannelGroup) -> list[str]:
    modules = dict(model.named_modules())
    return [name for name in group.producers if isinstance(modules[name], nn.Conv2d)]
