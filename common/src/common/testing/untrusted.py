"""Files that a stranger made: what they may request of the program, and that the program rejects it within bounds."""

import contextlib
import io
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from common.testing.invalid_input import single_error_line

MEMORY = 512 * 2**20  # bytes that an invalid file of a few kilobytes may add to the largest size of the process
SECONDS = 60.0

# Arguments that constructors of registered networks would act on, or do not take: (architecture, arguments).
HOSTILE_ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a download": ("resnet50", {"weights": "DEFAULT", "num_classes": 1000}),
    "a download of another": ("vgg16_imagenet", {"weights": "IMAGENET1K_V1", "num_classes": 1000}),
    "a module's name": ("resnet50", {"num_classes": 10, "norm_layer": "os.system"}),
    "layers without end": ("densenet40", {"layers": 10**6}),
    "layers within bounds": ("densenet40", {"layers": 900}),
    "widths without end": ("vgg16", {"config": [64] * 10**6}),
    "widths within bounds": ("vgg16", {"config": [64] * 200}),
    "only pools": ("vgg16", {"config": ["pool"] * 10}),
    "a list in a list": ("vgg16", {"config": [[64] * 10] * 10}),
    "widths of another type": ("vgg16", {"config": "64"}),
    "a division by zero": ("mobilenet_v2", {"round_nearest": 0}),
    "an infinite width": ("mobilenet_v2", {"width_mult": float("inf")}),
    "no number": ("mobilenet_v2", {"width_mult": float("nan")}),
    "classes without end": ("resnet20", {"num_classes": 10**9}),
    "classes of no tensor": ("resnet20", {"num_classes": 999_983}),
    "an integer of many digits": ("resnet20", {"num_classes": 10**4000}),
    "no classes": ("resnet20", {"num_classes": 0}),
    "a boolean for an integer": ("resnet20", {"num_classes": True}),
    "features without end": ("fc4096", {"in_features": 10**12}),
    "features of no tensor": ("lenet300_100", {"in_features": 10**7}),
    "hidden units without end": ("fc4096", {"hidden": 10**9}),
    "a size without end": ("lenet5", {"image_size": 10**9}),
    "blocks": ("resnet20", {"blocks": 10**6}),
    "an unknown shortcut": ("resnet56", {"shortcut": "rm -rf"}),
    "a table": ("resnet56", {"shortcut": {}}),
    "arguments that are none": ("resnet56", [1, 2]),  # type: ignore[dict-item]
}


@contextmanager
def bounded(memory: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """No network call and no more than so much additional memory; asserted at the end, with a generous limit on time."""

    def no_network(*_: Any) -> NoReturn:
        raise AssertionError("a network call")

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with mock.patch.object(socket, "getaddrinfo", no_network), mock.patch.object(socket.socket, "connect", no_network):
        yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown <= memory, f"{grown / 2**20:.0f} MiB of memory"
    assert time.monotonic() - start < seconds


def rejected(main: Callable[[list[str]], int], argv: Sequence[str | Path], words: str = "") -> str:
    """The one line with which a command rejects a file, within bounds: see :func:`common.testing.refusal`."""
    error = io.StringIO()
    with bounded(), contextlib.redirect_stderr(error):
        status = main([str(word) for word in argv])
    line = single_error_line(status, error.getvalue(), words)
    assert len(line) < 1000, f"a line of {len(line)} characters"
    return line


# What a file may say of its data, and must not.
HOSTILE_FACTS: dict[str, dict[str, Any]] = {
    "normalization as text": {"normalize": "imagenet"},
    "no deviation": {"normalize": {"mean": [0.5] * 3}},
    "a deviation of zero": {"normalize": {"mean": [0.5] * 3, "std": [0.2, 0.0, 0.2]}},
    "no number": {"normalize": {"mean": [0.5] * 3, "std": [0.2, float("nan"), 0.2]}},
    "text for numbers": {"normalize": {"mean": ["a", "b", "c"], "std": [1, 1, 1]}},
    "other lengths": {"normalize": {"mean": [0.5] * 3, "std": [0.2]}},
    "means without end": {"normalize": {"mean": [0.5] * 10**6, "std": [0.5] * 10**6}},
    "classes as a number": {"classes": 10},
    "numbered classes": {"classes": [1, 2]},
    "a data set that is a list": {"dataset": ["digits"]},
}
