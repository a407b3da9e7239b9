"""Describe the network encoding vector (NEV) of each network: one literal description per network.

A gene is one width. It is specified by one convolution of each channel group that gets this width (``common.channels``), so
layers that are coupled by residual sums need not be listed. A network that is not listed here has one gene per channel group.
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
class SpaceDescription:
    """Layout of the encoding vector of one network.

    Attributes:
        genes: For each gene, the layers whose width it sets.
        entries: Number of vector entries per gene, which must be equal; one per gene if empty.
        hidden: Hidden units of weight generators within blocks.
        batch_norm_genes: For a batch norm of fixed width, the gene that selects its row of statistics.
        scale_min: Smallest entry of the first random vectors.
        scale_max: Largest entry of the first random vectors.
    """

    genes: tuple[tuple[str, ...], ...]
    entries: tuple[int, ...] = ()
    hidden: int = 32
    batch_norm_genes: dict[str, int] = field(default_factory=dict)
    scale_min: int = 0
    scale_max: int = 30


def describe_resnet(blocks: Sequence[int], scale_min: int = 0, scale_max: int = 30) -> SpaceDescription:
    """Describe a ResNet: stem, output of each stage but the last, inner width of each block (its first two convolutions)."""
    outputs = [("conv1",), *((f"layer{stage}.0.conv3",) for stage in range(1, len(blocks)))]
    places = [f"layer{stage}.{block}" for stage, count in enumerate(blocks, 1) for block in range(count)]
    middles = [(f"{place}.conv1", f"{place}.conv2") for place in places]
    return SpaceDescription((*outputs, *middles), scale_min=scale_min, scale_max=scale_max)


def describe_mobilenet_v1(layers: Sequence[tuple[int, int]]) -> SpaceDescription:
    """Describe MobileNetV1: the output of each layer but the last. A depthwise convolution is as wide as its input."""
    return SpaceDescription((("conv",), *((f"blocks.{i}.pointwise",) for i in range(len(layers) - 2))))


def describe_mobilenet_v2(stages: Sequence[tuple[int, int, int]]) -> SpaceDescription:
    """Describe MobileNetV2: output of each stage, one entry per layer of the stage; then the inner width of each block."""
    counts = [count for _, count, _ in stages]
    firsts = [sum(counts[1:stage]) for stage in range(1, len(counts))]
    outputs = [("conv",), *((f"blocks.{first}.project",) for first in firsts)]
    middles = [(f"blocks.{i}.expand",) for i in range(sum(counts[1:]))]
    last = len(outputs) - 1
    return SpaceDescription(
        (*outputs, *middles), (*counts, *(1 for _ in middles)), hidden=64, batch_norm_genes={"head_norm": last}
    )


DESCRIPTIONS: dict[str, SpaceDescription] = {
    "resnet50": describe_resnet(RESNET50_BLOCKS, scale_min=12, scale_max=23),
    "mobilenetv1": describe_mobilenet_v1(MOBILENET_V1),
    "mobilenetv2": describe_mobilenet_v2(MOBILENET_V2),
    "resnet-small": describe_resnet([count for _, count, _ in RESNET_SMALL]),
    "mobilenetv1-small": describe_mobilenet_v1(MOBILENET_V1_SMALL),
    "mobilenetv2-small": describe_mobilenet_v2(MOBILENET_V2_SMALL),
}
