"""``python -m common.latency``: latency of pruned networks compared with the dense network, in one or more runtimes.

The pruned networks are read from files (``--checkpoint``), or built by pruning all layers of ``--arch`` or ``--model``
uniformly to ``--target-macs``, with widths that are multiples of ``--round-to``. Latency does not depend on the weights. The networks are
timed alternately (:mod:`common.timing`), those of all runtimes in the same rounds. Files of int8 networks (.onnx) run in ONNX Runtime and
OpenVINO only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import write_json
from common.cli import ROUNDING, TARGET_MACS, Range, positive_int, shorten
from common.errors import UserError, one_line
from common.markdown import markdown_table, pad_table
from common.options import (
    ARCHITECTURES_HELP,
    FACTORY,
    LATENCY_BATCHES,
    LATENCY_SECONDS,
    LIBRARIES,
    NO_INPUT_SHAPE,
    HardwareOptions,
    NetworkOptions,
    input_shape_option,
    model_option,
)
from common.reporting.latency import relative_cell
from common.runs import describe_environment
from common.runtimes import RUNTIMES, check_runtime
from common.settings import command, option, section, settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from common.measure import LatencyTimes

DENSE, TORCH = "dense", "torch"  # the reference; the runtime of networks as they are
DENSE_LIMIT = 250_000_000  # parameters of a dense network that is built from the architecture named in a file


@dataclass(frozen=True)
class LatencyGain:
    """Latency and MACs saved by one network at one batch size.

    Attributes:
        dense_ms: Median milliseconds per batch of the dense network in the same runtime.
        ms: Median milliseconds per batch of this network.
        relative: The network's time relative to the dense one's in the same runtime: :meth:`common.timing.Timing.record`.
        macs_saved: Fraction of the MACs, 1 - m'/m.
        runtime: Name of the runtime.
    """

    network: str
    batch: int
    dense_ms: float
    ms: float
    relative: Mapping[str, Any]
    macs_saved: float
    runtime: str = TORCH

    @property
    def latency_saved(self) -> float:
        """Fraction of the latency, 1 - t'/t."""
        return 1 - self.relative["ratio"]

    @property
    def ratio(self) -> float:
        """Saved latency over saved MACs, (1 - t'/t) / (1 - m'/m); nan if no MACs are saved."""
        return self.latency_saved / self.macs_saved if self.macs_saved else float("nan")


def uniform_network(arch: str, target_macs: float, round_to: int = 1) -> nn.Module:
    """Build a registered network pruned uniformly to at most ``target_macs`` of its MACs, widths multiples of ``round_to``."""
    from common.models import create_model, input_shape

    model = create_model(arch).eval()
    return prune_uniformly(model, input_shape(model), target_macs, round_to)


def prune_uniformly(model: nn.Module, shape: Sequence[int], target_macs: float, round_to: int = 1) -> nn.Module:
    """Prune a network uniformly to at most ``target_macs`` of its MACs, with widths that are multiples of ``round_to``.

    shape: Shape of one example.
    """
    import torch

    from common.channels import channel_groups, keep_channels, top_channels
    from common.cost import WidthCost
    from common.limits import Limits
    from common.target import Target, uniform_widths

    example = torch.zeros(1, *shape)
    groups = channel_groups(model, example)
    limits = Limits(round_to=round_to)
    widths = uniform_widths(groups, WidthCost(model, shape, groups), Target(target_macs), limits, exact=False)
    equal = {g.name: top_channels([0] * g.size, widths[g.name], conv_groups=g.conv_groups) for g in groups}
    return keep_channels(model, example, equal)


def series_name(network: str, runtime: str) -> str:
    """Return the name of a network in a runtime, of a measurement and in its JSON file."""
    return network if runtime == TORCH else f"{network}, {runtime}"


def latency_gains(
    measured: LatencyTimes, macs: Mapping[str, int], timed: Sequence[tuple[str, str]] | None = None
) -> list[LatencyGain]:
    """Compute the savings of all networks except ``dense``, by batch size, compared with the dense network in the same runtime.

    Args:
        measured: The times by :func:`series_name`.
        macs: MACs of each network.
        timed: What was timed, as (network, runtime); default: all networks in PyTorch.
    """
    found = []
    for name, runtime in timed or [(name, TORCH) for name in macs]:
        if name == DENSE:
            continue
        series, dense = series_name(name, runtime), series_name(DENSE, runtime)
        relative, saved = measured.record(series, dense), 1 - macs[name] / macs[DENSE]
        dense_ms = measured.milliseconds(dense)
        for batch, ms in measured.milliseconds(series).items():
            found.append(LatencyGain(name, int(batch), dense_ms[batch], ms, relative[batch], saved, runtime))
    return found


def format_gains(found: Sequence[LatencyGain]) -> str:
    """Format latency and saved MACs as a Markdown table, with the runtimes if there is another one than PyTorch."""
    several = any(gain.runtime != TORCH for gain in found)
    header = [
        "network",
        *["runtime"] * several,
        "batch",
        "dense (ms)",
        "pruned (ms)",
        "latency vs dense (%)",
        "MACs saved (%)",
        "latency/MACs saved",
    ]
    return markdown_table(
        header,
        [
            [
                g.network,
                *[g.runtime] * several,
                g.batch,
                f"{g.dense_ms:.2f}",
                f"{g.ms:.2f}",
                relative_cell(g.relative),
                f"{100 * g.macs_saved:.1f}",
                "" if g.relative.get("disturbed") else f"{g.ratio:.2f}",
            ]
            for g in found
        ],
    )


@settings
class Latency:
    """Measure the latency of pruned networks and compare saved latency with saved MACs."""

    checkpoint: list[str] = option([], "files of compressed networks of one architecture")
    dense: str | None = option(
        None, "file of the dense network (default: it is built by --model, or from the architecture in the files)"
    )
    arch: str | None = option(None, f"registered network to prune uniformly, instead of files: {ARCHITECTURES_HELP}")
    model: str | None = model_option("; pruned uniformly if no --checkpoint is given")
    input_shape: list[int] | None = input_shape_option(" (default: that of the registered network)")
    target_macs: float = option(0.5, "fraction of the MACs to keep (without --checkpoint)", type=TARGET_MACS)
    round_to: list[int] = option(
        [1, 8], "layer widths are multiples of these numbers (without --checkpoint)", type=ROUNDING
    )
    batch_size: list[int] = option(list(LATENCY_BATCHES), "images per batch", type=positive_int)
    seconds: float = option(
        LATENCY_SECONDS,
        "longest duration of the measurement; it ends earlier if it is precise",
        type=Range(float, 0.1, 86_400),
    )
    runtime: list[str] = option(
        [TORCH],
        "runtimes in which all networks are timed, each relative to the dense network in the same runtime: torch (eager), compile "
        "(torch.compile), onnxruntime, openvino",
        choices=tuple(RUNTIMES),
    )
    run: HardwareOptions = section(HardwareOptions)
    json: str | None = option(None, "file for the milliseconds of every repeat")

    def __post_init__(self) -> None:
        if bool(self.checkpoint or self.model) == bool(self.arch):
            raise UserError(
                "--checkpoint, --arch: exactly one is required; give --checkpoint FILE, --arch NAME or --model "
                + FACTORY
            )
        if self.model and not self.input_shape and not self.checkpoint and not self.model.startswith(LIBRARIES):
            raise UserError(f"--model {self.model}: {NO_INPUT_SHAPE}")
        for name in self.runtime:
            check_runtime(name)


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.latency") -> int:
    return command(Latency, latency, argv, prog)


def latency(settings: Latency) -> None:
    """Build or read the networks, time them alternately, and print the savings."""
    import torch

    from common.cost import count_cost
    from common.device import choose_device, set_threads
    from common.measure import measure_latency

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    networks = _networks(settings)
    shape = settings.input_shape or _known_shape(networks, settings)
    _check_shape(networks, shape)
    timed = _in_runtimes(networks, settings.runtime, shape, device)
    series = {series_name(*key): network for key, network in timed.items()}
    measured = measure_latency(
        series,
        shape,
        reference=next(iter(series)),
        device=device,
        batch_sizes=settings.batch_size,
        seconds=settings.seconds,
    )
    macs = {name: count_cost(model, shape).macs for name, model in networks.items()}
    print(pad_table(format_gains(latency_gains(measured, macs, list(timed)))), end="")
    print(
        f"{torch.get_num_threads()} threads, {device.type}, channels-last, medians, interleaved with the dense network; "
        f"{describe_control(measured)}"
    )
    if len(settings.runtime) > 1:
        print(f"the dense network takes, in milliseconds, {describe_dense(measured, settings.runtime)}")
    if settings.json:
        milliseconds = {
            batch: {name: [round(1000 * s, 4) for s in seconds] for name, seconds in timing.series.items()}
            for batch, timing in measured.timings.items()
        }
        record = {"milliseconds": milliseconds, "macs": macs, "environment": describe_environment(device)}
        write_json(settings.json, record)


def _in_runtimes(
    networks: Mapping[str, nn.Module], runtimes: Sequence[str], shape: Sequence[int], device: torch.device
) -> dict[tuple[str, str], nn.Module]:
    """Return {(name, runtime): network}, the dense one in the first runtime first, without those that a runtime cannot run.

    Raises UserError if a runtime fails, the dense network cannot run in it, or a network can run in none.
    """
    import torch

    from common.runtimes import network_in

    found = {}
    for runtime in dict.fromkeys(runtimes):
        if device.type != "cpu" and RUNTIMES[runtime].reads_onnx:
            raise UserError(f"--runtime {runtime}: it is timed on the CPU; add --device cpu")
        for name, model in networks.items():
            network = network_in(runtime, model, shape)
            if network is None:
                continue
            try:
                with torch.inference_mode():
                    network(torch.zeros(1, *shape))
            except Exception as error:  # of a compiler or a runtime, which have many kinds
                raise UserError(f"--runtime {runtime}: {name}: {shorten(one_line(error), 200)}") from error
            found[name, runtime] = network
        if (DENSE, runtime) not in found:
            raise UserError(
                f"--runtime {runtime}: the dense network is an ONNX file, which it cannot run; give another --dense"
            )
    lost = [name for name in networks if not any((name, runtime) in found for runtime in runtimes)]
    if lost:
        raise UserError(f"{lost[0]}: an ONNX file; add --runtime onnxruntime")
    return found


def describe_dense(measured: LatencyTimes, runtimes: Sequence[str]) -> str:
    """Return the dense network's milliseconds in each runtime, with which runtimes are compared."""
    times = {runtime: measured.milliseconds(series_name(DENSE, runtime)) for runtime in dict.fromkeys(runtimes)}
    parts = [
        f"{', '.join(f'{ms:.2f} (batch {batch})' for batch, ms in each.items())} in {name}"
        for name, each in times.items()
    ]
    return "; ".join(parts)


def describe_control(measured: LatencyTimes) -> str:
    """Say how well the machine measures: the dense network's time relative to its own, in the same rounds."""
    parts = [
        f"batch {batch}: {100 * timing.control.value:.1f} ± {100 * timing.control.spread:.1f} %, {len(timing.series[timing.reference])} rounds"
        for batch, timing in measured.timings.items()
    ]
    text = f"the dense network against itself: {'; '.join(parts)}"
    return f"{text}; {measured.disturbed}" if measured.disturbed else text


def _known_shape(networks: Mapping[str, nn.Module], settings: Latency) -> Sequence[int]:
    """Return the input shape that a network's file, its architecture or its library records. Raises UserError if none does."""
    from common.factory import import_factory, known_shape

    factory = import_factory(settings.model) if settings.model else None
    shapes = (known_shape(model, factory) for model in reversed(list(networks.values())))  # files first
    shape = next((shape for shape in shapes if shape is not None), None)
    if shape is None:
        raise UserError(f"--model {settings.model}: {NO_INPUT_SHAPE}" if settings.model else NO_INPUT_SHAPE)
    return shape


def _check_shape(networks: Mapping[str, nn.Module], shape: Sequence[int]) -> None:
    """Raise UserError, naming the network, if one does not accept an example of this shape."""
    import torch

    for name, model in networks.items():
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, *shape))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = shorten(one_line(error), 200)
            raise UserError(
                f"{name}: the network does not accept an example of shape {tuple(shape)}: {reason}; give another --input-shape"
            ) from error


def _networks(settings: Latency) -> dict[str, nn.Module]:
    """Return {name: network}, the dense one first."""
    from common.factory import import_factory, model_from_options
    from common.formats import load_network
    from common.models import create_meta_model, create_model

    factory = import_factory(settings.model) if settings.model else None
    if not settings.checkpoint:
        asked = NetworkOptions(arch=settings.arch, model=settings.model)
        dense, known = model_from_options(asked, shape=settings.input_shape)
        shape = settings.input_shape or known
        if shape is None:  # of a library's network without weights
            raise UserError(f"--model {settings.model}: {NO_INPUT_SHAPE}")
        _check_shape({DENSE: dense.eval()}, shape)
        pruned = {
            f"widths in {n}s" if n > 1 else "any width": prune_uniformly(dense, shape, settings.target_macs, n)
            for n in settings.round_to
        }
        return {DENSE: dense, **pruned}
    models = {str(Path(file)): load_network(file, factory) for file in settings.checkpoint}
    if settings.dense:
        return {DENSE: load_network(settings.dense, factory), **models}
    if settings.model:
        header = getattr(next(iter(models.values())), "checkpoint_header", None) or {}
        build = import_factory(settings.model, len(header.get("classes") or ()) or None)
        return {DENSE: build().eval(), **models}
    records = [getattr(model, "architecture", None) for model in models.values()]
    if records[0] is None or any(record != records[0] for record in records):
        raise UserError(
            "--checkpoint: the files do not have one registered architecture in common; give the dense network's file with --dense"
        )
    dense = create_meta_model(records[0]["arch"], **records[0]["args"])
    if sum(parameter.numel() for parameter in dense.parameters()) > DENSE_LIMIT:
        raise UserError(
            f"--checkpoint: the dense {records[0]['arch']} has over {DENSE_LIMIT:,} parameters; give its file with --dense"
        )
    return {DENSE: create_model(records[0]["arch"], **records[0]["args"]).eval(), **models}


if __name__ == "__main__":
    sys.exit(main())
