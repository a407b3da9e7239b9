"""``python -m common.sensitivity``: what removing a fraction of each channel group changes, without training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.cli import BETWEEN, IMAGES, SEED
from common.errors import UserError
from common.options import DataOptions, HardwareOptions, LimitOptions, NetworkOptions
from common.settings import changed_values, command, option, option_name, section, settings

if TYPE_CHECKING:
    from torch import nn

    from common.data.own_data import OwnData
    from common.group_sensitivity import Sensitivity
    from common.trained_model import TrainedModel

PLOT_SUFFIXES = (".svg", ".png", ".pdf")
FRACTIONS = (0.1, 0.25, 0.5, 0.75)


@settings
class SensitivityOptions:
    """Sensitivity."""

    fractions: list[float] = option(
        list(FRACTIONS), "fractions of a group's channels to remove", type=BETWEEN, metavar="F"
    )
    images: int = option(500, "number of images, all if there are fewer", type=IMAGES, metavar="N")
    part: str = option(
        "train", "images to measure on; train, since layers are chosen by the result", choices=("train", "test")
    )
    criterion: str = option(
        "l1_norm",
        "which channels are removed first: l1_norm, random, or the name of an installed method that ranks channels, such as "
        "model_preserving_id",
    )
    seed: int = option(0, "random seed, for the images and the criterion random", type=SEED)
    json: str | None = option(None, "file for all values")
    plot: str | None = option(None, "file for the plot (.svg, .png or .pdf)")

    def __post_init__(self) -> None:
        if self.plot and not self.plot.lower().endswith(PLOT_SUFFIXES):
            raise UserError(
                f"--plot {self.plot}: the suffix is not one of {', '.join(PLOT_SUFFIXES)}; use one of these"
            )


@settings
class MeasureSensitivity:
    """Show how much each channel group matters: accuracy and outputs without a fraction of its channels, without training.

    A residual stream is one group, with all layers that add to it.
    """

    network: NetworkOptions = section(NetworkOptions)
    data: DataOptions = section(DataOptions)
    sensitivity: SensitivityOptions = section(SensitivityOptions)
    limits: LimitOptions = section(LimitOptions)
    run: HardwareOptions = section(HardwareOptions)


def sensitivity(
    trained: TrainedModel | nn.Module,
    fractions: Sequence[float] = FRACTIONS,
    *,
    data: OwnData | None = None,
    images: int = 500,
    criterion: str = "l1_norm",
    part: str = "train",
    seed: int = 0,
) -> Sensitivity:
    """Measure what removing a fraction of each channel group changes: agreement, outputs and, with labels, accuracy.

    Residual streams are measured with all layers that add to them. The network is not changed. ``print`` shows the result as a
    table, the most sensitive group first; ``plot(path)`` plots it; ``to_json()`` returns it as JSON.

    Args:
        trained: A trained network with its data, or a network. Its limits apply.
        fractions: Fractions of a group's channels to remove, in (0, 1).
        data: For a network: a DataLoader or Dataset, tensors or an image folder; see :func:`common.data.own_data.own_data`.
        images: Number of images; all if there are fewer.
        criterion: Which channels are removed first: "l1_norm", "random", or an installed method that ranks channels.
        part: "train", since layers are chosen by the result, or "test".
        seed: Random seed, for the images and the criterion "random".

    Raises:
        UserError: If the fractions, the criterion or the data are invalid, or no channel can be removed.
    """
    from common.group_sensitivity import measure_group_sensitivity
    from common.trained_model import TrainedModel

    if part not in ("train", "test"):
        raise UserError(f"part {part!r}: not one of train, test")
    if not isinstance(trained, TrainedModel):
        if data is None:
            raise UserError("data: give the examples of the network, or a TrainedModel")
        trained = _own_network(trained, data)
    return measure_group_sensitivity(trained, fractions, images=images, criterion=criterion, part=part, seed=seed)


def _own_network(model: nn.Module, data: OwnData) -> TrainedModel:
    from common.channels.example import copy_network
    from common.data.own_data import own_data
    from common.trained_model import TrainedModel
    from common.wrapped import plain_network

    bundle, labeled = own_data(data)
    model = copy_network(plain_network(model)).cpu().eval()
    return TrainedModel(type(model).__name__, model, bundle, classifier=labeled)


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.sensitivity") -> int:
    return command(MeasureSensitivity, measure, argv, prog)


def measure(settings: MeasureSensitivity) -> None:
    """Read the network and the data, measure, print the table, and write the files."""
    from common.atomic import write_json
    from common.device import choose_device, set_threads
    from common.limits import Limits
    from common.progress import activity
    from common.trained_model import open_trained_model

    set_threads(settings.run.threads)
    network = settings.network
    name = network.checkpoint or network.model or network.arch
    with activity(f"{name} on {settings.data.dataset}"):
        trained = open_trained_model(network, settings.data, device=choose_device(settings.run.device))
    options, given = settings.sensitivity, changed_values(settings.limits)
    limits = Limits.of(trained.model, trained.all_groups, **given, option=option_name)
    trained = trained.changed(limits=limits)
    found = sensitivity(
        trained,
        options.fractions,
        images=options.images,
        criterion=options.criterion,
        part=options.part,
        seed=options.seed,
    )
    print(found)
    if options.json:
        write_json(options.json, found.to_json())
    if options.plot:
        found.plot(options.plot)


if __name__ == "__main__":
    sys.exit(main())
