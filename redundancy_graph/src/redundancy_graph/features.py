"""Hashes of the output maps of named layers, taken while the pictures stream through the network.

A map is hashed inside the forward hook and dropped, so 64 bits per map are held and never the maps: ResNet-50 with 100
pictures needs some hundred MB instead of 4.4 GB. Layers are matched by name, whatever the order in which they run.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.data import ImageSet
from common.device import exact_float32
from common.errors import UserError
from redundancy_graph.hashing import hash_maps
from redundancy_graph.settings import BN_MODES

_PIXELS_AT_ONCE = 1 << 19  # 512 pictures of 32x32, 10 of 224x224


def choose_pictures(images: ImageSet, count: int, seed: int) -> ImageSet:
    """``count`` pictures drawn without repetition from a generator of their own. Raises UserError if there are fewer."""
    if not 1 <= count <= len(images):
        raise UserError(f"--mini-batch {count}: expected 1 to {len(images)}, the number of training pictures")
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
    """Hashes of each layer's raw output (after its bias, before norm and relu): {layer: bool (N, C, bits)}, on the CPU.

    bn_mode: ``eval``, or ``train`` as the authors ran it: all N pictures in one batch, normalised by that batch's
    statistics. The given network is left as it was. Raises UserError for maps that are not finite, naming the layer, and
    for a layer that the network does not run.
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
        for batch in tqdm(batches, total=-(-len(images) // batch_size), desc="feature maps", disable=None, leave=False):
            network(batch.images)
    for name, hashes in parts.items():
        if not hashes:
            raise UserError(f"{name} does not run when the network does: there are no maps to compare")
    return {name: torch.cat(hashes) for name, hashes in parts.items()}


def _batch_size(images: ImageSet) -> int:
    _, height, width = images.image_shape
    return max(1, min(len(images), _PIXELS_AT_ONCE // (height * width)))


def _hash_into(hashes: list[Tensor], name: str):
    def hook(module: nn.Module, inputs, output: Tensor) -> None:
        try:
            hashes.append(hash_maps(output).cpu())
        except ValueError as error:
            raise UserError(f"layer {name}: {error}; are these the right weights?") from error

    return hook
