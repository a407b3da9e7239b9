"""Decoded images that are kept in memory, so that each is decoded once, as long as there is room for them."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

GIB = 2**30
DEFAULT_BYTES = 2 * GIB
FRACTION = 0.25  # of the available memory
MEMORY = Path("/proc/meminfo")
CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


@dataclass
class Room:
    """Bytes for the decoded images of a data set: those of its training and test images together."""

    limit: int
    used: int = 0

    def take(self, size: int) -> bool:
        """Return whether there is room for this number of further bytes, and count them if so."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True


@dataclass(frozen=True, eq=False)
class KeptImages:
    """Images (C, H, W) uint8 of a listing, by position. What was kept once stays."""

    room: Room
    pixels: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def add(self, position: int, image: Tensor) -> None:
        """Keep a copy of an image if there is room."""
        if position not in self.pixels and self.room.take(image.nbytes):
            self.pixels[position] = image.clone()


def memory_limit(gib: float | None = None) -> int:
    """Return the bytes for decoded images: those of the option, else 2 GiB, but at most a quarter of the available memory.

    The processes of one torchrun share them.
    """
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    if gib is not None:
        return int(gib * GIB) // processes
    return min(DEFAULT_BYTES, int(FRACTION * available_memory())) // processes


def available_memory() -> int:
    """Return the bytes of memory that are available to this process, also in a container; 2 GiB where this is not known."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in MEMORY.read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # the file contains "max" if there is no limit
        limit, used = (int(file.read_text()) for file in CONTAINER)
        found.append(max(0, limit - used))
    with suppress(OSError, ValueError, AttributeError):
        found = found or [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    return min(found, default=DEFAULT_BYTES)
