"""Times of single layers at several widths, measured once on this machine and kept in a file.

An entry is the median seconds of one call of a convolution or linear layer with random weights and inputs, alone (in PyTorch,
channels-last). Widths are multiples of eight, at most seven on each side of a layer; between them, times are interpolated.
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import nn

from common.atomic import write_json
from common.channels.resize import is_depthwise
from common.cost.calls import Call
from common.errors import UserError
from common.progress import track
from common.runs import describe_environment, read_json
from common.runtimes import TORCH, layer_in, runtime_version
from common.timing import time_calls

STEP = 8  # widths in the table are multiples of it
LEVELS = 7  # on each side of a layer
SECONDS = 0.03  # for one entry, on average
CACHE = "COMPRESSION_PAPERS_CACHE"  # environment variable: folder of the measured tables


@dataclass(frozen=True)
class LayerForm:
    """What the time of a layer depends on, besides its widths.

    Attributes:
        kind: ``conv``, ``depthwise`` or ``linear``.
        size: Positions of the input: (H, W) of a convolution; those of a linear layer, (T,), or ().
        groups: Of a grouped convolution that is not depthwise; its widths are multiples of it.
    """

    kind: str
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False

    @property
    def name(self) -> str:
        """Name in the file."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def build(self, inputs: int, outputs: int) -> nn.Conv2d | nn.Linear:
        """Build a layer of these widths with random weights."""
        if self.kind == "linear":
            return nn.Linear(inputs, outputs, bias=self.bias).eval()
        layer = nn.Conv2d(
            inputs,
            outputs,
            self.kernel,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            groups=inputs if self.kind == "depthwise" else self.groups,
            bias=self.bias,
        )
        return layer.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def example(self, batch: int, inputs: int) -> torch.Tensor:
        """Return a random input of a layer with this many input channels."""
        if self.kind == "linear":
            return torch.randn(batch, *self.size, inputs)
        return torch.randn(batch, inputs, *self.size).contiguous(memory_format=torch.channels_last)


def layer_form(call: Call) -> LayerForm | None:
    """Return the form of a called layer; None for one that the table has no times of (transposed, one- and three-dimensional)."""
    module, bias = call.module, getattr(call.module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return LayerForm("linear", call.input_shape[1:-1], bias=bias)
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    depthwise = is_depthwise(module)
    return LayerForm(
        "depthwise" if depthwise else "conv",
        tuple(call.input_shape[2:]),
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.padding),
        tuple(module.dilation),
        1 if depthwise else module.groups,
        bias,
    )


def levels(size: int, multiple: int = 1) -> list[int]:
    """Return the measured widths of one side of a layer, ascending: multiples of eight and of ``multiple``, and its full width."""
    step = math.lcm(STEP, multiple)
    inner = list(range(step, size, step))
    if len(inner) > LEVELS - 1:
        places = [round((i + 1) * len(inner) / (LEVELS - 1)) - 1 for i in range(LEVELS - 1)]
        inner = sorted({inner[max(0, place)] for place in places} | {inner[0]})
    return [*inner, size]


class LatencyTable:
    """Measured times of layers for one batch size, number of threads, runtime and machine.

    Attributes:
        file: Where they are kept.
        times: {name of a form: {(inputs, outputs): seconds}}.
        steps: {digest of a network: number of which its widths should be multiples}.
    """

    def __init__(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        runtime: str = TORCH,
    ) -> None:
        self.batch_size, self.device, self.runtime = batch_size, torch.device(device), runtime
        self.machine = describe_machine(batch_size, self.device, runtime)
        key = hashlib.sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()[:12]
        self.file = (folder or cache_folder()) / f"latency-{key}.json"
        self.times: dict[str, dict[tuple[int, int], float]] = {}
        self.steps: dict[str, int] = {}
        self._read()

    def _read(self) -> None:
        if not self.file.is_file():
            return
        try:
            content = read_json(self.file)
            for form, entries in content["times"].items():
                self.times[form] = {_widths(text): float(seconds) for text, seconds in entries.items()}
            self.steps = {key: int(step) for key, step in content.get("steps", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            raise UserError(
                f"{self.file}: the measured times are damaged; delete the file to measure them again"
            ) from error

    def measure(self, wanted: Mapping[LayerForm, tuple[int, int]]) -> None:
        """Measure what is missing, and write the file. wanted: full widths (inputs, outputs) of every form."""
        todo = []
        for form, (inputs, outputs) in wanted.items():
            points = list(grid(form, inputs, outputs))
            if not set(points) <= set(self.times.get(form.name, {})):
                todo.append((form, points))
        with torch.random.fork_rng(devices=[]):  # what follows does not depend on how much was measured
            for form, points in track(todo, "latency table"):
                self.times.setdefault(form.name, {}).update(self._measure(form, points))
                self._write()

    def _measure(self, form: LayerForm, points: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        examples = {width: form.example(self.batch_size, width).to(self.device) for width in {one for one, _ in points}}
        calls: dict[str, Callable[[], object]] = {}
        copies: dict[str, int] = {}
        for inputs, outputs in points:
            name = f"{inputs}x{outputs}"
            layer, copies[name] = layer_in(self.runtime, form.build(inputs, outputs), examples[inputs])
            calls[name] = _call(layer.to(self.device), examples[inputs])
        with torch.inference_mode():
            timed = time_calls(calls, list(calls)[-1], seconds=SECONDS * len(points), synchronize=wait)
        return {_widths(name): timed.seconds(name) / copies[name] for name in calls}

    def keep_step(self, key: str, step: int) -> None:
        """Add an entry to :attr:`steps`, and write the file."""
        self.steps[key] = step
        self._write()

    def _write(self) -> None:
        times = {form: {f"{i}x{o}": s for (i, o), s in entries.items()} for form, entries in self.times.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {"machine": self.machine, "times": times, "steps": self.steps})

    def lookup(self, form: LayerForm, full: tuple[int, int]) -> "Interpolation":
        """Return the times of a measured layer at any widths up to ``full``."""
        entries = self.times[form.name]
        points = list(grid(form, *full))
        rows, columns = sorted({i for i, _ in points}), sorted({o for _, o in points})
        if form.kind == "depthwise":
            return Interpolation(rows, [0], [[entries[i, i]] for i in rows])
        return Interpolation(rows, columns, [[entries[i, o] for o in columns] for i in rows])


def grid(form: LayerForm, inputs: int, outputs: int) -> Iterator[tuple[int, int]]:
    """Yield the measured widths (inputs, outputs) of a layer."""
    if form.kind == "depthwise":
        yield from ((width, width) for width in levels(inputs))
    else:
        yield from product(levels(inputs, form.groups), levels(outputs, form.groups))


@dataclass(frozen=True)
class Interpolation:
    """Bilinear interpolation between measured widths; below the smallest ones, the time is that of the smallest."""

    inputs: list[int]
    outputs: list[int]
    seconds: list[list[float]]  # [input][output]

    def __call__(self, inputs: float, outputs: float) -> float:
        i, s = _place(self.inputs, inputs)
        j, t = _place(self.outputs, outputs)
        rows = self.seconds[i], self.seconds[min(i + 1, len(self.inputs) - 1)]
        after = min(j + 1, len(self.outputs) - 1)
        first, second = ((1 - t) * row[j] + t * row[after] for row in rows)
        return (1 - s) * first + s * second


def _place(known: list[int], width: float) -> tuple[int, float]:
    """Return the index of the measured width below, and where between it and the next one a width is, from 0 to 1."""
    if width <= known[0]:
        return 0, 0.0
    if width >= known[-1]:
        return len(known) - 1, 0.0
    i = next(i for i in range(len(known)) if known[i + 1] >= width)
    return i, (width - known[i]) / (known[i + 1] - known[i])


def _call(layer: nn.Module, example: torch.Tensor) -> Callable[[], object]:
    return lambda: layer(example)


def _widths(text: str) -> tuple[int, int]:
    inputs, outputs = text.split("x")
    return int(inputs), int(outputs)


def cache_folder() -> Path:
    """Return the folder of the measured tables: ``$COMPRESSION_PAPERS_CACHE``, or one in the user's cache."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compression-papers"


def describe_machine(batch_size: int, device: torch.device, runtime: str = TORCH) -> dict[str, object]:
    """Return what times of layers depend on, besides the layers."""
    environment = describe_environment(device)
    return ({} if runtime == TORCH else {"runtime": f"{runtime} {runtime_version(runtime)}"}) | {
        "device": environment["device"],
        "processor": _processor_details(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": batch_size,
    }


def _processor_details() -> str:
    """Return the model of the processor, with what it is called where several are called alike."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        named = {key.strip(): value.strip() for key, value in found.items()}
        return " ".join(named.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    except (OSError, ValueError):
        return platform.processor() or platform.machine()
