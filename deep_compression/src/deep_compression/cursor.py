"""Reading and writing of a block's parts. Every byte has a named category, and every read is checked against the end."""

from __future__ import annotations

from collections import Counter

MAX_VARINT = 1 << 62

Parts = list[tuple[str, bytes]]  # (category, bytes)


def varint(value: int) -> bytes:
    """Encode a nonnegative integer in 7 bits per byte, low bits first."""
    if not 0 <= value < MAX_VARINT:
        raise ValueError(f"{value} cannot be stored: it is not in 0..2^62 - 1")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """A position in a block of bytes; `used` counts the bytes that were read, by category."""

    def __init__(self, data: bytes | memoryview):
        self.data = memoryview(data)
        self.at = 0
        self.used: Counter[str] = Counter()

    def take(self, size: int, category: str) -> memoryview:
        """Read the next `size` bytes. Raises ValueError if fewer are left."""
        if size < 0 or size > len(self.data) - self.at:
            raise ValueError(f"the file is damaged: a part of {size} bytes exceeds its block")
        self.at += size
        self.used[category] += size
        return self.data[self.at - size : self.at]

    def byte(self, category: str) -> int:
        return self.take(1, category)[0]

    def varint(self, category: str) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte(category)
            value |= (byte & 127) << shift
            if byte < 128:
                if value >= MAX_VARINT:
                    break
                return value
        raise ValueError("the file is damaged: a number is too long")

    def finish(self) -> None:
        """Raise ValueError unless everything has been read."""
        if self.at != len(self.data):
            raise ValueError(f"the file is damaged: {len(self.data) - self.at} bytes are left over in a block")
