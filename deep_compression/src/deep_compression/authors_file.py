"""SqueezeNet as the authors of Deep Compression published it (github.com/songhan/SqueezeNet-Deep-Compression): ``*.net``, for Caffe.

Layout, little-endian: the number of entries of each layer (26 x uint32), then for each layer
  codebook   256 x float32; code 0 is the value of fillers, 0
  biases     out x float32
  codes      one byte per entry
  gaps       4 bits per entry, the low half of a byte first: the zeros before the entry
Weights are (out, in, height, width); the first layer reads BGR. A layer's entries end with its last weight or before it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from deep_compression.positions import decode_positions

SUFFIX = ".net"
ARGUMENTS = {"num_classes": 1000, "padding": 1}
CODES = 256
FIRES = (  # (place, in, squeezed, expanded)
    *((3, 96, 16, 64), (4, 128, 16, 64), (5, 128, 32, 128), (7, 256, 32, 128)),
    *((8, 256, 48, 192), (9, 384, 48, 192), (10, 384, 64, 256), (12, 512, 64, 256)),
)
# {layer in torchvision's network: (out, in, size of the kernel)}, in the order of the file
LAYERS = {
    "features.0": (96, 3, 7),
    **{
        f"features.{place}.{layer}": shape
        for place, into, squeezed, expanded in FIRES
        for layer, shape in (
            ("squeeze", (squeezed, into, 1)),
            ("expand1x1", (expanded, squeezed, 1)),
            ("expand3x3", (expanded, squeezed, 3)),
        )
    },
    "classifier.1": (1000, 512, 1),
}


def read_authors_network(path: Path, factory: Callable[[], nn.Module] | None = None) -> nn.Module | None:
    """Load the network for :mod:`common.formats`, in eval mode; None for a file whose name does not end in ``.net``.

    Raises:
        UserError: If the file is not that of the authors' SqueezeNet.
    """
    if Path(path).suffix != SUFFIX:
        return None
    from common.conversion.preprocessings import SQUEEZENET
    from common.models import create_model

    model = create_model("squeezenet1_0", **ARGUMENTS)
    model.load_state_dict(read_authors_file(path))
    model.checkpoint_header = {  # type: ignore[assignment]
        "dataset": "imagenet",
        "normalize": {"mean": list(SQUEEZENET.mean), "std": list(SQUEEZENET.std)},
        "preprocessing": SQUEEZENET.geometry,
        "classes": None,
        "extra": {},
    }
    return model.eval()


def read_authors_file(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict of SqueezeNet 1.0 in RGB: the file's values, with the first layer's input channels reversed.

    Raises:
        UserError: If the file is of another size than its numbers of entries imply, or if its positions or values are invalid.
    """
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    counts = (
        data[: 4 * len(LAYERS)].view("<u4").astype(np.int64) if len(data) >= 4 * len(LAYERS) else np.zeros(0, np.int64)
    )
    sizes = [4 * CODES + 4 * out + n + (n + 1) // 2 for n, (out, *_) in zip(counts, LAYERS.values(), strict=False)]
    if len(data) != 4 * len(LAYERS) + sum(sizes) or not len(sizes):
        raise UserError(
            f"{path}: not SqueezeNet as Deep Compression's authors published it: the size does not match the numbers of entries"
        )
    blocks = np.split(data[4 * len(LAYERS) :], np.cumsum(sizes)[:-1])
    found = {}
    for (name, (out, into, kernel)), n, block in zip(LAYERS.items(), counts, blocks, strict=True):
        codebook, biases, codes, gaps = np.split(block, np.cumsum([4 * CODES, 4 * out, n]))
        places = decode_positions(np.stack([gaps & 15, gaps >> 4], 1).reshape(-1)[:n])
        weight = np.zeros(out * into * kernel * kernel, np.float32)
        if n and places[-1] >= len(weight):
            raise UserError(f"{path}: damaged: {name} has a position outside its {len(weight):,} weights")
        values = codebook.view("<f4").astype(np.float32)
        weight[places] = values[codes]
        found[f"{name}.weight"] = torch.from_numpy(weight.reshape(out, into, kernel, kernel))
        found[f"{name}.bias"] = torch.from_numpy(biases.view("<f4").astype(np.float32))
    found["features.0.weight"] = found["features.0.weight"].flip(1).contiguous()
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise UserError(f"{path}: damaged: a value is not finite")
    return found
