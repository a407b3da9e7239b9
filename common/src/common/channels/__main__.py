"""Print the channel groups of a network: ``python -m common.channels --arch resnet20``."""

import sys
from collections.abc import Sequence

from common.cli import IMAGE_SIDE
from common.errors import UserError
from common.options import NetworkOptions
from common.settings import command, option, section, settings


@settings
class Channels:
    """Print the channel groups of a network: sets of channels that can only be removed together."""

    network: NetworkOptions = section(NetworkOptions)
    input_shape: list[int] | None = option(
        None,
        "shape of one image; default: that of the registered network",
        type=IMAGE_SIDE,
        nargs=3,
        metavar=("C", "H", "W"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return command(Channels, show, argv, "python -m common.channels")


def show(settings: Channels) -> None:
    """Build the network, trace it and print its groups."""
    import warnings

    import torch

    from common.channels import channel_groups
    from common.factory import model_from_options

    model, shape = model_from_options(settings.network)
    shape = tuple(settings.input_shape) if settings.input_shape else shape  # type: ignore[assignment]
    if shape is None:
        raise UserError(
            "--input-shape: the network does not record its input shape; give it, e.g. --input-shape 3 224 224"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the excluded groups are printed below
        groups = channel_groups(model, torch.zeros(1, *shape))
    for group in groups:
        print(group)
    if groups.excluded:
        print("excluded:")
    for name, reason in groups.excluded.items():
        print(f"  {name}: {reason}")
    print(f"{len(groups)} groups, {sum(group.size for group in groups)} channels")


if __name__ == "__main__":
    sys.exit(main())
