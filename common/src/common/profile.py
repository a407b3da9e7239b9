"""``python -m common.profile``: time per layer of pruned networks next to the dense one, and what bounds each layer.

The networks are those of ``latency``. Layers are timed by hooks, in passes that alternate (:mod:`common.profiling.times`); the roofline
comes from two constants of the machine that are measured first (:mod:`common.profiling.roofline`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import write_json
from common.cli import Range, positive_int
from common.errors import UserError
from common.options import LATENCY_SECONDS, HardwareOptions
from common.runs import describe_environment
from common.settings import command, option, section, settings
from common.timed_networks import DENSE, TimedNetworks, open_networks, round_to_option

if TYPE_CHECKING:
    from torch import nn

    from common.profiling.roofline import Machine
    from common.profiling.times import NetworkTimes
    from common.timing import Timing

BATCH_SIZE = 64
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@settings
class Profile(TimedNetworks):
    """Time each layer of pruned networks next to the dense network, and show what bounds it: arithmetic or memory."""

    round_to: list[int] = round_to_option([8])
    fold_batch_norm: bool = option(
        False, "fold batch norm into the convolutions before it, as deployed networks have it"
    )
    batch_size: int = option(BATCH_SIZE, "images per batch", type=positive_int)
    seconds: float = option(
        LATENCY_SECONDS,
        "longest duration of the measurement; it ends earlier if it is precise",
        type=Range(float, 0.1, 86_400),
    )
    top: int = option(
        20, "number of layers in the table and the plot: the slowest of the dense network", type=positive_int
    )
    run: HardwareOptions = section(HardwareOptions)
    json: str | None = option(None, "file for all values of every layer")
    plot: str | None = option(None, "file for the plot (.png, .svg or .pdf)", metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot and Path(self.plot).suffix.lower() not in PLOT_SUFFIXES:
            raise UserError(f"--plot {self.plot}: give the name of a .png, .svg or .pdf file")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.profile") -> int:
    return command(Profile, profile, argv, prog)


def profile(settings: Profile) -> None:
    """Build or read the networks, time their layers, and print tables and sentences."""
    from functools import partial

    import torch

    from common.device import choose_device, set_threads
    from common.profiling.report import profile_record
    from common.profiling.roofline import measure_machine
    from common.profiling.times import time_layers

    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    models, shape = open_networks(settings)
    if settings.fold_batch_norm:
        models = {name: _folded(name, model) for name, model in models.items()}
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    machine = measure_machine(device, wait)
    batch_size = settings.batch_size
    networks, timing = time_layers(models, shape, batch_size=batch_size, seconds=settings.seconds, device=device)
    threads = torch.get_num_threads()
    about = f"{device.type}, {threads} thread{'s' * (threads > 1)}, batches of {batch_size}"
    _print_profile(settings, networks, timing, machine, about)
    if settings.json:
        record = profile_record(networks, machine)
        relative = {name: timing.record(name) for name in networks if name != DENSE}
        environment = describe_environment(device)
        write_json(
            settings.json, {"batch_size": batch_size, **record, "relative": relative, "environment": environment}
        )
    if settings.plot:
        from common.profiling.plot import plot_layers

        plot_layers(settings.plot, networks, machine, settings.top, about)


def _folded(name: str, model: nn.Module) -> nn.Module:
    """Fold batch norm. Raises UserError, with the network's name, if it has some and none of it can be folded."""
    from torch import nn

    from common.fold import fold_batch_norm

    folded = fold_batch_norm(model)
    before, after = (
        sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()) for net in (model, folded)
    )
    if before and before == after:
        raise UserError(
            f"--fold-batch-norm: no batch norm of the network {name} can be folded into the layer before it"
        )
    return folded


def _print_profile(
    settings: Profile, networks: dict[str, NetworkTimes], timing: Timing, machine: Machine, about: str
) -> None:
    from common.profiling.report import explain, kind_table, layer_table

    print(
        f"{about}. A large matrix product reaches {machine.gflops:.0f} GFLOP/s, a large copy {machine.gbytes:.1f} GB/s: memory bounds "
        f"layers with fewer than {machine.balance:.1f} operations per byte."
    )
    dense = networks[DENSE]
    for name, pruned in networks.items():
        if name == DENSE:
            continue
        print(f"\n{name}, dense / pruned: {1000 * dense.whole:.2f} / {1000 * pruned.whole:.2f} ms per batch\n")
        print(layer_table(dense, pruned, machine, settings.batch_size, settings.top))
        print(kind_table(dense, pruned))
        print("\n".join(explain(dense, pruned, machine, timing.ratio(name).value)))
    rounds = len(timing.series[DENSE])
    print(
        f"\nMedians of {rounds} rounds. The hooks add {100 * dense.hooks / dense.whole:.1f} % to a pass of the dense network; against itself "
        f"it takes {100 * timing.control.value:.1f} ± {100 * timing.control.spread:.1f} %."
    )
    if timing.disturbed:
        print(f"{timing.disturbed[0].upper()}{timing.disturbed[1:]}. Repeat the command on an idle machine.")


if __name__ == "__main__":
    sys.exit(main())
