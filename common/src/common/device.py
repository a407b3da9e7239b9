"""Choose the device, the CPU thread count and the precision of float32 arithmetic."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return the device ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:N``. Raises UserError if unavailable."""
    import torch

    if name == "auto":
        return local_device() if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        if not torch.cuda.is_available():
            raise UserError(
                f"--device {name}: no CUDA device available on this machine or in this build of torch; use --device cpu"
            )
        device = local_device() if name == "cuda" else torch.device(name)
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UserError(
                f"--device {name}: only {torch.cuda.device_count()} CUDA devices available, numbered from 0"
            )
        return device
    raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")


def local_device() -> torch.device:
    """Return the CUDA device of this process: one per local rank under torchrun, else the first one."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 within this context, where CUDA would round inputs to TensorFloat-32 (10 bits of mantissa).

    Convolutions use TensorFloat-32 by default, which changes results in the fourth digit. The settings are restored.
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
    """Set the number of CPU threads of torch, unless it is None, and return the current number."""
    import torch

    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: must be at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
