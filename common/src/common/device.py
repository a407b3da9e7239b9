"""Choose the device, the CPU thread count and the precision of float32 arithmetic."""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import torch

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # of the environment, with which a user sets torch's number
CONTROL_GROUP = Path("/sys/fs/cgroup")
LOOK = 0.25  # seconds during which the idle time of the cores is counted


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


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return the type of automatic mixed precision: bfloat16, or float16 on a GPU that only emulates bfloat16."""
    import torch

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def warn_of_slow_amp(device: torch.device, what: str) -> None:
    """Warn that mixed precision makes ``what`` slower, if this machine's CPU has no instructions for it."""
    import torch

    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(f"--amp: this CPU has no bfloat16 instructions; {what} slower", stacklevel=3)


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


def free_cores() -> tuple[int, str]:
    """Return the number of cores that this process may use and others leave free, at least 1, and how it was found.

    The limits are torch's own number (which ``OMP_NUM_THREADS`` sets: it is then used as it is), the cores of this process's
    affinity, and the CPU quota of its control group.
    """
    import torch

    for name in THREAD_VARIABLES:
        if os.environ.get(name):
            return torch.get_num_threads(), name
    limits = {f"{torch.get_num_threads()} cores": float(torch.get_num_threads())}
    if hasattr(os, "sched_getaffinity"):
        limits["those of the affinity"] = float(len(os.sched_getaffinity(0)))
    quota = cpu_quota(CONTROL_GROUP)
    if quota is not None:
        limits[f"a quota of {quota:g}"] = quota
    about = min(limits, key=limits.__getitem__)
    idle = _idle_cores()
    return max(1, min(math.ceil(limits[about]), round(idle))), f"of {about}, {idle:.1f} are idle"


def cpu_quota(group: Path) -> float | None:
    """Return the number of cores that a control group (versions 2 and 1) allows; None without a limit."""
    with suppress(OSError, ValueError, IndexError):
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    return None


def _idle_cores() -> float:
    """Return how many cores other processes leave idle, for a moment; by the load average if the system has no counters."""
    cores = os.cpu_count() or 1
    try:
        before, own = _idle_ticks(), time.process_time()
        time.sleep(LOOK)
        idle = (_idle_ticks() - before) / os.sysconf("SC_CLK_TCK") / LOOK
        return min(float(cores), idle + (time.process_time() - own) / LOOK)
    except (OSError, ValueError, IndexError):
        return max(0.0, cores - os.getloadavg()[0])


def _idle_ticks() -> int:
    first = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(first[4]) + int(first[5])  # idle, and waiting for a disk


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads of torch and return it. None: its own choice, within the CPU quota, which it does not know."""
    import torch

    quota = None if threads is not None or any(map(os.environ.get, THREAD_VARIABLES)) else cpu_quota(CONTROL_GROUP)
    if quota is not None and quota < torch.get_num_threads():
        torch.set_num_threads(max(1, math.ceil(quota)))
    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: must be at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
