"""Print the channel groups of a network: ``python -m common.channels --arch resnet20``."""

import sys
from collections.abc import Sequence

from common.errors import UserError
from common.options import NO_INPUT_SHAPE, NetworkOptions, input_shape_option
from common.settings import command, section, settings


@settings
class Channels:
    """Print the channel groups of a network: sets of channels that can only be removed together."""

    network: NetworkOptions = section(NetworkOptions)
    input_shape: list[int] | None = input_shape_option(" (default: that of the registered network)")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.channels") -> int:
    return command(Channels, show, argv, prog)


def show(settings: Channels) -> None:
    """Build the network, trace it and print its groups."""
    import warnings

    import torch

    from common.channels import channel_groups
    from common.factory import model_from_options

    model, known = model_from_options(settings.network, shape=settings.input_shape)
    shape = settings.input_shape or known
    if shape is None:
        raise UserError(NO_INPUT_SHAPE)
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
