"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360) as in the package ``ndf``: kernels (H, W, in, out) in a pickle of NumPy arrays.

The pickle is read as data (:mod:`common.array_pickle`). The network reads BGR; here, the first layer's input channels are reversed,
so that it reads RGB.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.array_pickle import NUMBERS, PickledArray, array_constructors
from common.errors import UserError
from common.plain_pickle import PickleError, PlainPickle

FILE_LIMIT = 2**28  # bytes
FIRST, LAST = "conv1", "conv10"
FIRES = {
    2: 3,
    3: 4,
    4: 6,
    5: 7,
    6: 9,
    7: 10,
    8: 11,
    9: 12,
}  # {number of a fire module: its position in torchvision's network}
LAYERS = {
    FIRST: "features.0",
    **{
        f"fire{fire}/{layer}": f"features.{place}.{layer}"
        for fire, place in FIRES.items()
        for layer in ("squeeze1x1", "expand1x1", "expand3x3")
    },
    LAST: "classifier.1",
}
TORCHVISION = {"squeeze1x1": "squeeze"}  # names of layers


def is_pickle(start: bytes) -> bool:
    """Return whether a file starts as a pickle of protocol 2 or later."""
    return start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def read_arrays(path: Path) -> dict[str, list[Tensor]]:
    """Return {name: [tensor, ...]} of a pickled dictionary of lists of arrays. Raises UserError, naming the file."""
    if path.stat().st_size > FILE_LIMIT:
        raise UserError(f"{path}: larger than {FILE_LIMIT:,} bytes, the limit for pickles")
    data = path.read_bytes()
    try:
        content = PlainPickle(data, array_constructors(len(data))).load()
        if not isinstance(content, dict) or not all(isinstance(arrays, list) for arrays in content.values()):
            raise PickleError("it is no dictionary of lists of arrays")
        left = len(data)  # bytes; a pickle may refer to an array many times
        found: dict[str, list[Tensor]] = {}
        for name, arrays in content.items():
            found[str(name)] = []
            for entry in arrays:
                array = entry.array(NUMBERS) if isinstance(entry, PickledArray) else None
                if array is None or (left := left - array.nbytes) < 0:
                    raise PickleError("an entry is no array of floating-point numbers, or occurs many times")
                with np.errstate(over="ignore"):  # infinite weights are an error, which names them
                    found[str(name)].append(torch.from_numpy(array.astype("=f4")))
        return found
    except (PickleError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable pickle of arrays ({reason}); download it again") from error


def squeezenet_tensors(arrays: dict[str, list[Tensor]], path: Path) -> dict[str, Tensor]:
    """Return the state dict of torchvision's SqueezeNet 1.1. Raises UserError for other layers than those of the network."""
    if arrays.keys() != LAYERS.keys() or any(len(entry) != 2 or entry[0].dim() != 4 for entry in arrays.values()):
        raise UserError(
            f"{path}: not SqueezeNet 1.1 as in the package ndf: expected kernel and bias of {', '.join(LAYERS)}"
        )
    found = {}
    for name, (kernel, bias) in arrays.items():
        place, _, layer = LAYERS[name].rpartition(".")
        module = f"{place}.{TORCHVISION.get(layer, layer)}"
        weight = kernel.permute(3, 2, 0, 1)
        found[f"{module}.weight"] = (weight.flip(1) if name == FIRST else weight).clone(
            memory_format=torch.contiguous_format
        )
        found[f"{module}.bias"] = bias
    return found
