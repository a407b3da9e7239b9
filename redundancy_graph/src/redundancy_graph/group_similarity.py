"""Similarities and L1 norms of the filters of each channel group, from a network and images.

Coupled filters (those of all layers that add to one residual stream) are decided together, from the feature maps and weights of the
group's first layer: the stem for the first stage, the shortcut's convolution if there is one, else the last convolution of the first
block. With ``similarity_layer="all"``, agreeing bits and L1 norms are summed over all layers of the group.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from common.channels import ChannelGroup
from common.errors import UserError
from common.layers import weight_of
from common.trained_model import TrainedModel
from redundancy_graph.features import choose_images, collect_hashes
from redundancy_graph.settings import SelectionOptions
from redundancy_graph.similarity import agreement_counts, is_constant


@dataclass(frozen=True)
class GroupSimilarity:
    """Similarities (C, C) and L1 norms (C,) of the filters of one channel group.

    ``bits`` is the number of compared hash bits; 0 if the feature maps have one pixel and cannot be compared.
    """

    group: str
    layer: str
    producers: tuple[str, ...]
    similarity: np.ndarray
    bits: int
    l1_norms: np.ndarray


def measure_similarities(
    start: TrainedModel, options: SelectionOptions, mini_batch: int, seed: int
) -> list[GroupSimilarity]:
    """Measure similarities and L1 norms of every prunable group, in one pass over ``mini_batch`` training images."""
    images = choose_images(start.data.train, mini_batch, seed)
    layers = layers_to_hash(start.model, start.groups, options.similarity_layer)
    hashes = collect_hashes(
        start.model,
        images,
        layers,
        device=start.device,
        workers=start.workers,
        bn_mode=options.bn_mode,
        augment=options.augment,
    )
    return compute_similarities(start.model, start.groups, hashes, options.similarity_layer)


def prunable_groups(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
    """Return the prunable channel groups by the name of their first layer: groups produced by convolutions.

    Groups produced by linear layers alone have no feature maps. Groups that belong to a grouped convolution are not pruned, because
    the method does not determine how many filters to keep; neither are those in which several filters are one channel (before a
    group norm), since it compares single feature maps. Raises UserError if no group is prunable.
    """
    found = {}
    for group in groups:
        convolutions = _convolutions(model, group)
        one_by_one = not any(name in group.outputs for name in group.producers)
        if convolutions and group.conv_groups == 1 and one_by_one:
            found[group.reference_layer if group.reference_layer in convolutions else convolutions[0]] = group
    if not found:
        raise UserError(
            "the network has no convolution with removable filters; python -m common.channels lists the groups of a network"
        )
    return found


def layers_to_hash(model: nn.Module, groups: Sequence[ChannelGroup], similarity_layer: str = "first") -> list[str]:
    """Return the layers whose feature maps :func:`compute_similarities` needs."""
    prunable = prunable_groups(model, groups)
    if similarity_layer == "first":
        return list(prunable)
    return [name for group in prunable.values() for name in _convolutions(model, group)]


def compute_similarities(
    model: nn.Module, groups: Sequence[ChannelGroup], hashes: Mapping[str, Tensor], similarity_layer: str = "first"
) -> list[GroupSimilarity]:
    """Compute similarities and L1 norms of every prunable group from the hashes of its layers.

    Layers whose feature maps have one pixel are not compared; a warning names those of groups without other layers.
    """
    modules = dict(model.named_modules())
    found = []
    constant = []
    for layer, group in prunable_groups(model, groups).items():
        layers = [layer] if similarity_layer == "first" else _convolutions(model, group)
        counted = [agreement_counts(hashes[name]) for name in layers if not is_constant(hashes[name])]
        bits = sum(total for _, total in counted)
        similarity = (
            sum((counts for counts, _ in counted), np.zeros((), np.int64)) / bits if bits else np.eye(group.size)
        )
        constant += [] if bits else [layer]
        norms = sum((l1_norms(modules[name]) for name in layers), np.zeros(()))
        found.append(GroupSimilarity(group.name, layer, tuple(group.producers), similarity, bits, norms))
    if constant:
        warnings.warn(
            f"{len(constant)} of {len(found)} layers are not pruned, because their feature maps have one pixel, whose hash has a "
            f"single bit, always 1: {', '.join(constant)}",
            stacklevel=2,
        )
    return found


def l1_norms(layer: nn.Module) -> np.ndarray:
    """Return the sum of absolute weights of each filter, (C,) float64, without biases."""
    return weight_of(layer).detach().double().abs().flatten(1).sum(1).cpu().numpy()


def _convolutions(model: nn.Module, group: ChannelGroup) -> list[str]:
    modules = dict(model.named_modules())
    return [name for name in group.producers if isinstance(modules[name], nn.Conv2d)]
