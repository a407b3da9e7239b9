"""``best.pth.tar``, the weights of VGG-16 on CIFAR-10 that the original repository provides: write it, and use it where present."""

import sys
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from common.options import NetworkOptions
from decore.settings import PRETRAINED, Pretrained, main_pretrained

ARCH = "vgg16"


def write_pretrained(settings: Pretrained) -> None:
    """Write the state dict of a VGG-16. Raises UserError for another network."""

    from common.checkpoint import read_checkpoint
    from common.tensor_files import write_tensor_file

    header, tensors = read_checkpoint(settings.checkpoint)
    if header["arch"] != ARCH:
        raise UserError(f"{settings.checkpoint}: the network is {header['arch']}; name a trained {ARCH}")
    write_tensor_file(settings.out, {"arch": ARCH, "state_dict": tensors})
    print(f"{settings.out}: weights of {settings.checkpoint}")


def with_pretrained(network: NetworkOptions) -> NetworkOptions:
    """Return the options of a network, with ``best.pth.tar`` as weights if none are named and it is present.

    Raises UserError if it is required and missing.
    """
    if network.weights or network.checkpoint or network.model or network.arch != ARCH:
        return network
    if not Path(PRETRAINED).is_file():
        raise UserError(
            f"no trained weights given, and no {PRETRAINED} in this folder; use --weights FILE or --checkpoint FILE, or write"
            f" {PRETRAINED} with python -m decore.pretrained"
        )
    return replace(network, weights=PRETRAINED)


if __name__ == "__main__":
    sys.exit(main_pretrained())
