"""What the network encoding vector (NEV) of each network sets: one literal description per network.

A gene is one width. It is named by one convolution of every channel group that gets this width (``common.channels``), so
ties by residual sums need not be spelt out. A network that is not listed here has a gene for each of its channel groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rewarded_metapruning.networks import (
    MOBILENET_V1,
    MOBILENET_V1_SMALL,
    MOBILENET_V2,
    MOBILENET_V2_SMALL,
    RESNET_SMALL,
)

RESNET50_BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Description:
    """genes: each the layers whose width it sets; entries: how many entries of the vector a gene takes (all equal), 1 each
    if empty; hidden: units of a generator's hidden layer within blocks; norm_selectors: which gene chooses the norm of a layer whose own
    width is fixed; scale_min, scale_max: range in which the first random vectors are drawn.
    """

    genes: tuple[tuple[str, ...], ...]
    entries: tuple[int, ...] = ()
    hidden: int = 32
    norm_selectors: dict[str, int] = field(default_factory=dict)
    scale_min: int = 0
    scale_max: int = 30


def resnet(blocks: Sequence[int], scale_min: int = 0, scale_max: int = 30) -> Description:
    """Stem; the output of each stage but the last; the middle of each block, shared by its first two convolutions."""
    outputs = [("conv1",), *((f"layer{stage}.0.conv3",) for stage in range(1, len(blocks)))]
    places = [f"layer{stage}.{block}" for stage, count in enumerate(blocks, 1) for block in range(count)]
    middles = [(f"{place}.conv1", f"{place}.conv2") for place in places]
    return Description((*outputs, *middles), scale_min=scale_min, scale_max=scale_max)


def mobilenet_v1(layers: Sequence[tuple[int, int]]) -> Description:
    """The output of each layer but the last; a depthwise convolution is as wide as what it reads."""
    return Description((("conv",), *((f"blocks.{i}.pointwise",) for i in range(len(layers) - 2))))


def mobilenet_v2(stages: Sequence[tuple[int, int, int]]) -> Description:
    """The output of each stage, one entry per layer of it; then the middle of each block."""
    counts = [count for _, count, _ in stages]
    firsts = [sum(counts[1:stage]) for stage in range(1, len(counts))]
    outputs = [("conv",), *((f"blocks.{first}.project",) for first in firsts)]
    middles = [(f"blocks.{i}.expand",) for i in range(sum(counts[1:]))]
    last = len(outputs) - 1
    return Description(
        (*outputs, *middles), (*counts, *(1 for _ in middles)), hidden=64, norm_selectors={"head_norm": last}
    )


DESCRIPTIONS: dict[str, Description] = {
    "resnet50": resnet(RESNET50_BLOCKS, scale_min=12, scale_max=23),
    "mobilenetv1": mobilenet_v1(MOBILENET_V1),
    "mobilenetv2": mobilenet_v2(MOBILENET_V2),
    "resnet-small": resnet([count for _, count, _ in RESNET_SMALL]),
    "mobilenetv1-small": mobilenet_v1(MOBILENET_V1_SMALL),
    "mobilenetv2-small": mobilenet_v2(MOBILENET_V2_SMALL),
}
