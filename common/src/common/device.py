"""Where the arithmetic runs: device and thread count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """The device for ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``. Raises UserError if it is not there."""
    import torch

    if name == "auto":
        return local_device() if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit()):
        if not torch.cuda.is_available():
            raise UserError(
                f"--device {name}: this machine or this build of torch has no CUDA device; use --device cpu"
            )
        device = local_device() if name == "cuda" else torch.device(name)
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UserError(
                f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices, numbered from 0"
            )
        return device
    raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")


def local_device() -> torch.device:
    """The CUDA device of this process: under torchrun one per local rank, else the current one."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 where CUDA would round inputs to TensorFloat-32 (10 bits of mantissa); restore the settings.

    Convolutions do that by default, so values measured without this differ from the CPU's in the fourth digit.
    """
    import torch

    if not torch.cuda.is_available():
        yield
        return
    cudnn: Any = torch.backends.cudnn  # replaces itself in sys.modules, by an object that has more attributes
    places: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def set_threads(threads: int | None) -> int:
    """Set (or only report, for None) how many threads torch computes with on the CPU."""
    import torch

    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: at least one is needed")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
