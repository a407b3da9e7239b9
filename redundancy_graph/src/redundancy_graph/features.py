"""Hashes of the feature maps of named layers, computed during the forward pass.

A feature map is hashed in a forward hook and discarded, so only 64 bits per map are stored: ResNet-50 with 100 images needs a few
hundred MB instead of 4.4 GB. Layers are matched by name, independently of the order of execution.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.data import ImageSet
from common.device import exact_float32
from common.errors import UserError
from common.progress import track
from redundancy_graph.hashing import hash_maps
from redundancy_graph.settings import BN_MODES

_PIXELS_AT_ONCE = 1 << 19  # 512 images of 32x32, 10 of 224x224


def choose_images(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Choose ``count`` images at random, without repetition. Raises UserError if there are fewer."""
    if not 1 <= count <= len(images):
        raise UserError(f"--mini-batch {count}: must be from 1 to {len(images)}, the number of training images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[:count])


@torch.no_grad()
def collect_hashes(
    model: nn.Module,
    images: ImageSet,
    layers: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    workers: int = 2,
    bn_mode: str = "eval",
    augment: bool = False,
) -> dict[str, Tensor]:
    """Hash the output of each layer (with its bias, before batch norm and ReLU). The network is not modified.

    Args:
        bn_mode: ``"eval"``, or ``"train"`` as in the original code: all N images in one batch, whose statistics batch norm uses.
        augment: Crop and flip the images.

    Returns:
        {layer: hashes (N, C, bits), bool}, on the CPU.

    Raises:
        UserError: If feature maps are not finite, or a layer is not executed.
    """
    if bn_mode not in BN_MODES:
        raise ValueError(f"bn_mode {bn_mode!r}: expected one of {BN_MODES}")
    network = copy.deepcopy(model).to(device).train(bn_mode == "train")
    modules = dict(network.named_modules())
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name in layers:
        modules[name].register_forward_hook(_hash_into(parts[name], name))
    batch_size = len(images) if bn_mode == "train" else _batch_size(images)
    batches = images.batches(batch_size, augment=augment, device=device, workers=workers)
    with exact_float32():
        for batch in track(batches, "feature maps", -(-len(images) // batch_size)):
            network(batch.images)
    for name, hashes in parts.items():
        if not hashes:
            raise UserError(
                f"layer {name}: not executed in the forward pass, so it has no feature maps; remove it from the network"
            )
    return {name: torch.cat(hashes) for name, hashes in parts.items()}


def _batch_size(images: ImageSet) -> int:
    _, height, width = images.image_shape
    return max(1, min(len(images), _PIXELS_AT_ONCE // (height * width)))


def _hash_into(hashes: list[Tensor], name: str):
    def hook(module: nn.Module, inputs, output: Tensor) -> None:
        try:
            hashes.append(hash_maps(output).cpu())
        except ValueError as error:
            raise UserError(f"layer {name}: {error}; check the weights") from error

    return hook
