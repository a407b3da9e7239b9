"""Untrusted files: hostile contents, and a check that they are rejected within bounds on memory, time and network."""

import contextlib
import io
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from common.errors import UserError
from common.testing.invalid_input import single_error_line

MEMORY = 512 * 2**20  # bytes that an invalid file of a few kilobytes may add to the largest size of the process
SECONDS = 60.0

# {case: (architecture, constructor arguments that must be rejected)}.
HOSTILE_ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a download": ("resnet50", {"weights": "DEFAULT", "num_classes": 1000}),
    "another download": ("vgg16_imagenet", {"weights": "IMAGENET1K_V1", "num_classes": 1000}),
    "a module name": ("resnet50", {"num_classes": 10, "norm_layer": "os.system"}),
    "unbounded layers": ("densenet40", {"layers": 10**6}),
    "too many layers": ("densenet40", {"layers": 900}),
    "unbounded widths": ("vgg16", {"config": [64] * 10**6}),
    "too many widths": ("vgg16", {"config": [64] * 200}),
    "only pooling layers": ("vgg16", {"config": ["pool"] * 10}),
    "a nested list": ("vgg16", {"config": [[64] * 10] * 10}),
    "widths of another type": ("vgg16", {"config": "64"}),
    "a division by zero": ("mobilenet_v2", {"round_nearest": 0}),
    "an infinite width": ("mobilenet_v2", {"width_mult": float("inf")}),
    "not a number": ("mobilenet_v2", {"width_mult": float("nan")}),
    "unbounded classes": ("resnet20", {"num_classes": 10**9}),
    "classes that match no tensor": ("resnet20", {"num_classes": 999_983}),
    "an integer of many digits": ("resnet20", {"num_classes": 10**4000}),
    "no classes": ("resnet20", {"num_classes": 0}),
    "a boolean instead of an integer": ("resnet20", {"num_classes": True}),
    "unbounded features": ("fc4096", {"in_features": 10**12}),
    "features that match no tensor": ("lenet300_100", {"in_features": 10**7}),
    "unbounded hidden units": ("fc4096", {"hidden": 10**9}),
    "an unbounded size": ("lenet5", {"image_size": 10**9}),
    "unbounded inputs": ("googlenet", {"in_channels": 10**9}),
    "inputs that match no tensor": ("alexnet", {"in_channels": 9_973}),
    "not a probability": ("alexnet", {"dropout": 1.5}),
    "blocks": ("resnet20", {"blocks": 10**6}),
    "an unknown shortcut": ("resnet56", {"shortcut": "rm -rf"}),
    "a table": ("resnet56", {"shortcut": {}}),
    "a list instead of arguments": ("resnet56", [1, 2]),  # type: ignore[dict-item]
}


@contextmanager
def assert_bounded(memory: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """Check that there is no network call and that memory and time stay within bounds (context manager)."""

    def no_network(*_: Any) -> NoReturn:
        raise AssertionError("unexpected network call")

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with mock.patch.object(socket, "getaddrinfo", no_network), mock.patch.object(socket.socket, "connect", no_network):
        yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown <= memory, f"{grown / 2**20:.0f} MiB of additional memory"
    assert time.monotonic() - start < seconds


def check_rejected(main: Callable[[list[str]], int], argv: Sequence[str | Path], words: str = "") -> str:
    """Check that a command rejects a file within bounds and return its error line (:func:`common.testing.single_error_line`)."""
    error = io.StringIO()
    with assert_bounded(), contextlib.redirect_stderr(error):
        status = main([str(word) for word in argv])
    line = single_error_line(status, error.getvalue(), words)
    assert len(line) < 1000, f"the error line has {len(line)} characters"
    return line


EXTREMES = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\x00\x00\x00",
    b"\x00\x00\x00\x80",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file at one to three places: change, remove, insert, repeat or truncate bytes."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.randrange(min(len(new), 512)) if rng.random() < 0.5 else rng.randrange(len(new))
        kind, count = rng.randrange(7), rng.randint(1, 8)
        if kind == 0:
            new[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            new[start] = rng.randrange(256)
        elif kind == 2:
            del new[start : start + count]
        elif kind == 3:
            new[start:start] = rng.randbytes(count)
        elif kind == 4:
            new[start : start + 4] = rng.choice(EXTREMES)
        elif kind == 5:
            other = rng.randrange(len(new))
            new[start:start] = new[other : other + 4 * count]
        else:
            del new[start:]
        if not new:
            break
    return bytes(new)


def check_mutations(
    file: Path,
    write: Callable[[bytes], bytes],
    sources: Sequence[bytes],
    number: int,
    read: Callable[[Path], Any],
    check: Callable[[Any], bool],
) -> int:
    """Check that damaged files give one-line errors or valid results, within bounds; return the number of valid results.

    Args:
        file: File to write.
        write: Function from a mutation to the content of the file, e.g. one that adds a valid checksum.
        sources: Contents to mutate, in turn.
        number: Number of mutations.
        read: Reader, which raises UserError for a damaged file.
        check: Returns whether a result is valid.
    """
    rng, valid = random.Random(0), 0
    with assert_bounded(seconds=10 * SECONDS):
        for i in range(number):
            file.write_bytes(write(mutate(sources[i % len(sources)], rng)))
            try:
                result = read(file)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < len(str(file)) + 500, f"mutation {i}: {error}"
                continue
            assert check(result), f"mutation {i} gives an invalid result"
            valid += 1
    return valid


# {case: metadata of a file that must be rejected}.
HOSTILE_DATA_FIELDS: dict[str, dict[str, Any]] = {
    "normalization as text": {"normalize": "imagenet"},
    "missing standard deviation": {"normalize": {"mean": [0.5] * 3}},
    "zero standard deviation": {"normalize": {"mean": [0.5] * 3, "std": [0.2, 0.0, 0.2]}},
    "not a number": {"normalize": {"mean": [0.5] * 3, "std": [0.2, float("nan"), 0.2]}},
    "text instead of numbers": {"normalize": {"mean": ["a", "b", "c"], "std": [1, 1, 1]}},
    "different lengths": {"normalize": {"mean": [0.5] * 3, "std": [0.2]}},
    "unbounded means": {"normalize": {"mean": [0.5] * 10**6, "std": [0.5] * 10**6}},
    "classes as a number": {"classes": 10},
    "numbered classes": {"classes": [1, 2]},
    "a data set that is a list": {"dataset": ["digits"]},
}
