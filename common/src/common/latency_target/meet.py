"""Meet a latency target: a method decides with predicted times, its network is timed, and the method aims again if it missed."""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.channels import ChannelGroup
from common.channels.resize import width
from common.cost.widths import WidthCost
from common.distributed import is_main
from common.errors import RunFolderError, UserError
from common.latency_target.measured import Measured
from common.latency_target.predict import predict_latency, time_networks
from common.latency_target.table import LatencyTable
from common.limits import Limits
from common.measure import measure_latency
from common.methods import Decide, Decision
from common.progress import note, say
from common.runs import Stage
from common.runtimes import TORCH, in_runtime
from common.target import Target, uniform_widths
from common.timing import Timing
from common.trained_model import TrainedModel

ATTEMPTS = 6
SMALLEST = 0.01  # fraction to aim at
MARGIN = 0.5  # where in the allowed range a method aims, from its lower end 0 to its upper end 1
AIM_TOLERANCE = 0.02
STEPS = (1, 8, 16, 32)  # multiples of which widths may be faster, per MAC, on this machine
BETTER = 0.02  # relative gain from which a larger step is chosen
HALF = 0.5  # of the MACs of the networks with which that is measured
SECONDS = 10.0  # for timing a decision

FOLDER = "widths-{}"  # of the attempts with widths that are multiples of a number

Apply = Callable[[TrainedModel, Decision], nn.Module]


@dataclass(frozen=True)
class Met:
    """A decision whose network meets a latency target.

    Attributes:
        start: The network that was compressed, with the predicted times and the limits that were used.
        network: The network of the decision, as it was timed.
        report: Entry ``latency_target`` of metrics.json.
    """

    start: TrainedModel
    decision: Decision
    network: nn.Module
    report: Mapping[str, Any]


def decide_for_latency(
    decide: Decide,
    apply: Apply,
    start: TrainedModel,
    target: Target,
    stage: Stage,
    snap: bool = True,
) -> Met:
    """Let a method decide until its network meets the target as measured.

    What is measured is kept in the folder of the stage (:class:`common.latency_target.measured.Measured`).

    Args:
        decide: The method's function; its target is a fraction of the predicted time. Each attempt has a folder of its own.
        apply: Builds the network of a decision.
        start: The network to compress. If it has a reference, as in a chain, the target is a fraction of the reference's time.
        snap: Whether widths should be multiples of what is fast on this machine.

    Raises:
        UserError: If the target is not met after ``ATTEMPTS`` attempts, with the nearest measured fractions, or if the method cannot
            reach it as predicted, with the nearest predicted ones. Then smaller multiples, and single channels, were tried as well.
    """
    if start.device.type != "cpu" and target.runtime != TORCH:
        raise UserError(f"runtime {target.runtime}: it runs networks on the CPU; add --device cpu")
    table, shape = LatencyTable(target.batch_size, start.device, runtime=target.runtime), start.data.input_shape
    measured = Measured(stage.folder, table.machine)
    if stage.force and is_main():
        for folder in stage.folder.glob(FOLDER.format("*")):
            shutil.rmtree(folder)
    before = _fraction_before(start, target, measured)
    steps = [start.limits.round_to]
    if snap and start.limits.round_to == 1:
        found = measured.get("step", lambda: known_step(start.model, shape, start.all_groups, table, start.limits))
        steps = [step for step in reversed(STEPS) if step <= found]
    for step in steps:
        try:
            return _decide(decide, apply, start, target, stage, measured, before, step)
        except _MissedError as error:
            missed = error
            if step > 1:
                _tell(stage, f"latency: not with widths that are multiples of {step}: {error}")
        finally:
            _remove_empty_folders(stage.folder)
    raise UserError(str(missed)) from missed


def _remove_empty_folders(folder: Path) -> None:
    """Remove the folders of attempts in which the method has left nothing."""
    if is_main():
        for name in (FOLDER.format("*") + "/*", FOLDER.format("*")):
            for place in folder.glob(name):
                if place.is_dir() and not any(place.iterdir()):
                    place.rmdir()


class _MissedError(UserError):
    """A target that was not met with widths that are multiples of a number."""


def _fraction_before(start: TrainedModel, target: Target, measured: Measured) -> float:
    """Return the measured time of the network to compress as a fraction of the dense network's; 1 if it is the dense network."""
    dense, shape = start.reference, start.data.input_shape
    if dense is None:
        return 1.0
    found = measured.get("start", partial(relative_time, dense.model, start.model, shape, target, start.device))
    if found["ratio"] <= target.fraction:
        raise UserError(
            f"{target.option}: the network to compress takes {found['ratio']:.4f} of the dense network's time already; choose a "
            "smaller target"
        )
    return float(found["ratio"])


def _decide(
    decide: Decide,
    apply: Apply,
    start: TrainedModel,
    target: Target,
    stage: Stage,
    measured: Measured,
    before: float,
    step: int,
) -> Met:
    """Decide with widths that are multiples of ``step``. before: time of ``start`` relative to the dense network's.

    Raises _MissedError.
    """
    shape, limits, groups = start.data.input_shape, replace(start.limits, round_to=step), start.all_groups
    table = LatencyTable(target.batch_size, start.device, runtime=target.runtime)
    fitted = measured.get(f"fit-{step}", lambda: predict_latency(start.model, shape, groups, table, limits).fitted)
    latency = predict_latency(start.model, shape, groups, table, limits, fitted)
    _tell(
        stage,
        f"latency: predicted within {100 * latency.error:.0f} % for {latency.timed} networks that were timed, batch size "
        f"{target.batch_size}, runtime {target.runtime}, widths that are multiples of {step}",
    )
    dense, start = (start.reference or start).model, start.for_latency(latency, limits)
    wanted = target.fraction * (1 - target.tolerance * (1 - MARGIN))
    tried: list[tuple[float, float]] = []
    aimed = wanted
    for attempt in range(1, ATTEMPTS + 1):
        place = FOLDER.format(step)
        folder = stage.folder / place / f"attempt-{attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        own = replace(stage, folder=folder, shared=(stage.shared or stage.folder) / place)
        try:
            decision = _decide_near(decide, start, target, aimed / wanted / before, own)
        except _MissedError as error:
            if not tried:
                raise
            _tell(stage, f"latency, attempt {attempt}: {error}")
            break
        network = apply(start, decision)
        widths = widths_of(network, groups)
        predicted = before * latency.of(widths) / latency.dense
        found = measured.get(
            f"attempt-{step}-{attempt}",
            partial(relative_time, dense, network, shape, target, start.device),
            widths,
        )
        ratio = found["ratio"]
        spread = max(found["high"] - ratio, ratio - found["low"])
        _tell(
            stage,
            f"latency, attempt {attempt}: {100 * ratio:.1f} ± {100 * spread:.1f} % of the dense network's time "
            f"(predicted: {100 * predicted:.1f} %)" + (f"; {found['disturbed']}" if found.get("disturbed") else ""),
        )
        if target.is_met_by(ratio):
            report = {
                "target": target.fraction,
                "batch_size": target.batch_size,
                **({} if target.runtime == TORCH else {"runtime": target.runtime}),
                "predicted": round(predicted, 4),
                "attempts": attempt,
                "round_to": step,
                **found,
            }
            return Met(start, decision, network, report)
        tried.append((aimed, ratio))
        aimed = next_aim(tried, wanted)
    ratios = [found for _, found in tried]
    below, above = (sorted(one for one in ratios if sign * (one - target.fraction) > 0) for sign in (-1, 1))
    try:
        target.raise_unreachable("no network of this method, as measured,", [*below[-1:], *above[:1]])
    except UserError as error:
        raise _MissedError(str(error)) from error


def _tell(stage: Stage, line: str) -> None:
    """Log a line; where the messages of methods are kept for the bar alone, it is printed."""
    stage.log(line)
    if stage.log is note:
        say(line)


def _decide_near(decide: Decide, start: TrainedModel, target: Target, factor: float, stage: Stage) -> Decision:
    """Let a method decide for ``factor`` times the target: in the middle of what is allowed, or where it can.

    Raises _MissedError, with what the method says, if it cannot reach any of it.
    """
    middle = 1 - target.tolerance * (1 - MARGIN)
    said = None
    for fraction, tolerance in ((middle, min(AIM_TOLERANCE, target.tolerance)), (1.0, target.tolerance)):
        aim = min(1.0, fraction * factor * target.fraction)
        try:
            return decide(start, replace(target, fraction=aim, tolerance=tolerance, asked=target.fraction), stage)
        except RunFolderError:  # not about the target
            raise
        except UserError as error:
            said = error
    raise _MissedError(str(said)) from said


def next_aim(tried: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return the fraction to aim at next, given (aimed at, measured) so far: on the line through the last two, if it rises.

    A method whose own costs are MACs, not times, aims at a fraction of the MACs; it gets there as well.
    """
    (aimed, found) = tried[-1]
    if len(tried) > 1:
        before, measured = tried[-2]
        if (found - measured) * (aimed - before) > 0:
            return min(1.0, max(SMALLEST, aimed + (wanted - found) * (aimed - before) / (found - measured)))
    return min(1.0, max(SMALLEST, aimed * wanted / found))


def relative_time(
    dense: nn.Module, network: nn.Module, input_shape: Sequence[int], target: Target, device: torch.device
) -> dict[str, Any]:
    """Return the record of a network's time relative to the dense network's (:meth:`common.timing.Timing.record`)."""
    return time_against(dense, network, input_shape, target, device).record("network")


def time_against(
    dense: nn.Module, network: nn.Module, input_shape: Sequence[int], target: Target, device: torch.device
) -> Timing:
    """Time a copy of a network against one of the dense network, for the batch size and in the runtime of a target."""
    models = {
        name: in_runtime(target.runtime, copy.deepcopy(model).eval(), input_shape)
        for name, model in (("dense", dense), ("network", network))
    }
    timed = measure_latency(models, input_shape, device=device, batch_sizes=[target.batch_size], seconds=SECONDS)
    return timed.timings[str(target.batch_size)]


def widths_of(network: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Return the channels of every group that a pruned network has left, by the width of a layer that produces only them."""
    found = {}
    for group in groups:
        for name in group.producers:
            if name in group.outputs:
                continue
            try:
                found[group.name] = width(network.get_submodule(name), "out")
            except (AttributeError, StopIteration):
                continue
            break
    return found


def known_step(
    model: nn.Module,
    input_shape: Sequence[int],
    groups: Sequence[ChannelGroup],
    table: LatencyTable,
    limits: Limits,
) -> int:
    """Return :func:`favored_step`, which the table's file keeps by the shapes of the network, so that it is measured once."""
    shapes = [[name, list(tensor.shape)] for name, tensor in model.state_dict().items()]
    described = json.dumps([list(input_shape), shapes, limits.identity()])
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    if key not in table.steps:
        table.keep_step(key, favored_step(model, input_shape, groups, table, limits))
    return table.steps[key]


def favored_step(
    model: nn.Module,
    input_shape: Sequence[int],
    groups: Sequence[ChannelGroup],
    table: LatencyTable,
    limits: Limits,
) -> int:
    """Return the number of which widths should be multiples on this machine: measured with networks of equal widths at half the MACs.

    It is the one with the least time per MAC; a larger one must gain ``BETTER``.
    """
    cost = WidthCost(model, input_shape, groups)
    usable = [group for group in groups if limits.allows(group)]
    networks: dict[int, dict[str, int]] = {}
    for step in STEPS:
        try:
            stepped = replace(limits, round_to=step)
            widths = uniform_widths(usable, cost, Target(HALF), stepped, exact=False)
        except UserError:
            continue
        if widths not in networks.values() and cost.of(widths) >= (1 - 4 * AIM_TOLERANCE) * HALF * cost.dense:
            networks[step] = widths
    if len(networks) < 2:
        return next(iter(networks), 1)
    timed = time_networks(model, input_shape, groups, [{}, *networks.values()], table)
    per_mac = {
        step: timed.seconds(str(i)) / cost.of(widths) for i, (step, widths) in enumerate(networks.items(), start=1)
    }
    best, least = 1, math.inf
    for step, seconds in per_mac.items():
        if seconds < (1 - BETTER) * least:
            best, least = step, seconds
    return best
