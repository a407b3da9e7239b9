"""What a profile says: layers and kinds of layers in tables, and where the time goes in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.markdown import markdown_table, pad_table
from common.profiling.roofline import MEMORY, Machine
from common.profiling.times import NetworkTimes
from common.profiling.work import BETWEEN, KINDS, LayerWork

LAYER_HEADER = [
    "layer",
    "widths (in x out)",
    "MACs (M)",
    "ms",
    "ms, pruned/dense (%)",
    "GFLOP/s",
    "FLOP/byte",
    "bound by",
    "of the roofline (%)",
]
KIND_HEADER = ["kind", "dense (ms)", "of all (%)", "pruned (ms)", "of all (%)", "pruned/dense (%)", "MACs saved (%)"]


@dataclass(frozen=True)
class LayerSpeed:
    """Speed of a layer on a machine.

    Attributes:
        bound: ``arithmetic`` or ``memory``; empty for a layer that moves nothing.
        gflops: 10^9 operations per second.
        reached: The same, relative to what the roofline allows.
    """

    bound: str
    gflops: float
    reached: float


def layer_speed(work: LayerWork, seconds: float, machine: Machine) -> LayerSpeed:
    """Return how fast a layer is, and what bounds it."""
    if not work.bytes or not seconds:
        return LayerSpeed("", 0.0, 0.0)
    gflops = work.flops / seconds / 1e9
    return LayerSpeed(machine.bound(work.intensity), gflops, gflops / machine.attainable(work.intensity))


def layer_seconds(work: LayerWork, machine: Machine) -> float:
    """Return the seconds that a layer takes on the roofline."""
    return work.flops / machine.attainable(work.intensity) / 1e9 if work.bytes else 0.0


def slowest_layers(network: NetworkTimes, top: int) -> list[str]:
    """Return the names of the slowest layers, the slowest first."""
    return sorted(network.work, key=lambda name: -network.seconds[name])[:top]


def layer_table(dense: NetworkTimes, pruned: NetworkTimes, machine: Machine, batch_size: int, top: int) -> str:
    """Format the slowest layers of the dense network next to those of the pruned one, and the others as one row."""
    shown = slowest_layers(dense, top)
    rows = [_layer_row(name, dense, pruned, machine, batch_size) for name in shown]
    rest = [sum(t for name, t in one.seconds.items() if name not in shown) for one in (dense, pruned)]
    if len(shown) < len(dense.work):
        rows.append([f"{len(dense.work) - len(shown)} others", "", "", *_milliseconds(*rest), "", "", "", ""])
    rows.append([BETWEEN, "", "", *_milliseconds(dense.between, pruned.between), "", "", "", ""])
    return pad_table(markdown_table(LAYER_HEADER, rows))


def _layer_row(name: str, dense: NetworkTimes, pruned: NetworkTimes, machine: Machine, batch_size: int) -> list[str]:
    both = [(one.work[name], one.seconds[name]) for one in (dense, pruned) if name in one.work]
    work, speeds = [w for w, _ in both], [layer_speed(w, seconds, machine) for w, seconds in both]
    calls = f", {work[0].calls} calls" if work[0].calls > 1 else ""
    times = _milliseconds(*(seconds for _, seconds in both)) if len(both) == 2 else [f"{1000 * both[0][1]:.3f} /", ""]
    return [
        name + calls,
        _once(" -> ", [w.widths for w in work]),
        _pair(f"{w.macs / batch_size / 1e6:.2f}" if w.macs else "" for w in work),
        *times,
        _pair(f"{s.gflops:.1f}" for s in speeds),
        _pair(f"{w.intensity:.2f}" for w in work),
        _once(" / ", [s.bound for s in speeds]),
        _pair(f"{100 * s.reached:.0f}" for s in speeds),
    ]


def _milliseconds(dense: float, pruned: float) -> list[str]:
    return [f"{1000 * dense:.3f} / {1000 * pruned:.3f}", _percent(pruned, dense)]


def _pair(cells: Any) -> str:
    found = list(cells)
    return " / ".join(found) if any(found) else ""


def _once(joint: str, cells: list[str]) -> str:
    return joint.join(dict.fromkeys(cell for cell in cells if cell))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}" if whole else ""


def kind_table(dense: NetworkTimes, pruned: NetworkTimes) -> str:
    """Format the times of the kinds of layers, and of the networks."""
    of_dense, of_pruned = dense.kinds(), pruned.kinds()
    kinds = [kind for kind in KINDS if kind in of_dense or kind in of_pruned]
    rows = [
        [kind, *_times(of_dense.get(kind, 0.0), of_pruned.get(kind, 0.0), dense, pruned), _saved(dense, pruned, kind)]
        for kind in kinds
    ]
    rows.append(["all", *_times(dense.total, pruned.total, dense, pruned), _saved(dense, pruned)])
    return pad_table(markdown_table(KIND_HEADER, rows))


def _times(of_dense: float, of_pruned: float, dense: NetworkTimes, pruned: NetworkTimes) -> list[str]:
    shares = _percent(of_dense, dense.total), _percent(of_pruned, pruned.total)
    return [
        f"{1000 * of_dense:.2f}",
        shares[0],
        f"{1000 * of_pruned:.2f}",
        shares[1],
        _percent(of_pruned, of_dense),
    ]


def _saved(dense: NetworkTimes, pruned: NetworkTimes, kind: str | None = None) -> str:
    before, after = (sum(w.macs for w in one.work.values() if kind in (None, w.kind)) for one in (dense, pruned))
    return _percent(before - after, before)


@dataclass(frozen=True)
class Part:
    """Layers with MACs, or those without, of both networks. Attributes: seconds, FLOPs, bytes of dense and pruned network."""

    seconds: tuple[float, float]
    flops: tuple[int, int]
    bytes: tuple[int, int]

    @property
    def saved(self) -> float:
        """Fraction of the time that pruning saves."""
        return saved_fraction(*self.seconds)


def split(dense: NetworkTimes, pruned: NetworkTimes) -> tuple[Part, Part]:
    """Return the layers with MACs, and those without."""
    parts = []
    for multiplies in (True, False):
        found = []
        for one in (dense, pruned):
            work = {name: w for name, w in one.work.items() if bool(w.macs) == multiplies}
            seconds = sum(one.seconds[name] for name in work)
            found.append((seconds, sum(w.flops for w in work.values()), sum(w.bytes for w in work.values())))
        parts.append(Part(*zip(*found, strict=True)))
    return parts[0], parts[1]


def saved_fraction(before: float, after: float) -> float:
    """Return 1 - after / before; 0 if there was nothing."""
    return 1 - after / before if before else 0.0


def explain(dense: NetworkTimes, pruned: NetworkTimes, machine: Machine, ratio: float) -> Iterator[str]:
    """Yield sentences: which fraction of the saved MACs arrives as time, and where the rest remains.

    ratio: Time of the pruned network relative to the dense one's, of passes without hooks.
    """
    macs = saved_fraction(dense.macs, pruned.macs)
    arrives = f": {(1 - ratio) / macs:.2f} of the saving arrives" if macs > 0 else ""
    yield f"Pruning saves {100 * macs:.1f} % of the MACs and {100 * (1 - ratio):.1f} % of the time{arrives}."
    with_macs, without = split(dense, pruned)
    if all(with_macs.seconds):
        speeds = [flops / seconds / 1e9 for flops, seconds in zip(with_macs.flops, with_macs.seconds, strict=True)]
        yield (
            f"Layers with MACs take {_of(with_macs, dense, pruned)}. They save {100 * with_macs.saved:.0f} % of their time, and reach "
            f"{speeds[1]:.0f} GFLOP/s ({speeds[0]:.0f} in the dense network, of {machine.gflops:.0f})."
        )
    if without.seconds[1]:
        kinds = [k for k, _ in sorted(_kinds_without(pruned).items(), key=lambda item: -item[1])[:3]]
        yield (
            f"Layers without MACs (most of it {', '.join(kinds)}) take {_of(without, dense, pruned)}. They save {100 * without.saved:.0f} % "
            f"of their time; they move {100 * saved_fraction(*without.bytes):.0f} % fewer bytes."
        )
    missing = [
        after - (1 - macs) * before
        for before, after in (with_macs.seconds, without.seconds, (dense.between, pruned.between))
    ]
    if macs > 0 and sum(missing) > 0:
        places = ("in layers with MACs", "in layers without", BETWEEN)
        parts = ", ".join(f"{1000 * ms:.2f} {place}" for ms, place in zip(missing, places, strict=True))
        yield f"With time as with MACs, the pruned network would take {1000 * sum(missing):.2f} ms less: {parts}."
    best = [sum(layer_seconds(work, machine) for work in one.work.values()) for one in (dense, pruned)]
    if best[0]:
        yield (
            f"On the roofline, the layers would take {1000 * best[0]:.2f} / {1000 * best[1]:.2f} ms, dense / pruned: "
            f"{100 * saved_fraction(*best):.1f} % saved. Memory bounds {_bound_by_memory(dense, machine)} layers with MACs in the "
            f"dense network and {_bound_by_memory(pruned, machine)} in the pruned one."
        )


def _of(part: Part, dense: NetworkTimes, pruned: NetworkTimes) -> str:
    return (
        f"{_percent(part.seconds[0], dense.total)} % of the dense and {_percent(part.seconds[1], pruned.total)} % of the pruned "
        "network's time"
    )


def _kinds_without(network: NetworkTimes) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, work in network.work.items():
        if not work.macs:
            found[work.kind] = found.get(work.kind, 0.0) + network.seconds[name]
    return found


def _bound_by_memory(network: NetworkTimes, machine: Machine) -> str:
    bounds = [machine.bound(work.intensity) for work in network.work.values() if work.macs]
    return f"{bounds.count(MEMORY)} of {len(bounds)}"


def profile_record(networks: Mapping[str, NetworkTimes], machine: Machine) -> dict[str, Any]:
    """Return all values of a profile, for JSON: milliseconds per pass, and MACs, FLOPs and bytes of the batch."""
    return {
        "machine": {"gflops": round(machine.gflops, 2), "gbytes_per_second": round(machine.gbytes, 2)},
        "networks": {name: _network_record(network, machine) for name, network in networks.items()},
    }


def _network_record(network: NetworkTimes, machine: Machine) -> dict[str, Any]:
    speeds = {name: layer_speed(work, network.seconds[name], machine) for name, work in network.work.items()}
    return {
        "ms": round(1000 * network.whole, 4),
        "hooks_ms": round(1000 * network.hooks, 4),
        "between_ms": round(1000 * network.between, 4),
        "kinds_ms": {kind: round(1000 * seconds, 4) for kind, seconds in network.kinds().items()},
        "layers": {
            name: {**vars(work), "ms": round(1000 * network.seconds[name], 4), **_rounded(speeds[name])}
            for name, work in network.work.items()
        },
    }


def _rounded(speed: LayerSpeed) -> dict[str, Any]:
    return {"bound": speed.bound, "gflops": round(speed.gflops, 2), "roofline": round(speed.reached, 4)}
