"""Search spaces of custom networks (--model): one gene per channel group.

A custom network is supported if keeping the leading channels of every group gives a valid network.
"""

import warnings
from collections.abc import Callable

import torch
from torch import nn

from common.errors import UserError
from common.factory import import_factory
from common.outputs import first_output
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.scale import FULL
from rewarded_metapruning.space import SearchSpace, build_space_from_factory


def build_custom_space(
    name: str, num_classes: int, shape: tuple[int, int, int], factory: Callable[[], nn.Module] | None = None
) -> SearchSpace:
    """Build the search space of a custom network.

    Args:
        name: ``PACKAGE.MODULE:FACTORY`` or ``FILE.py:FACTORY``.
        num_classes: Number of classes.
        shape: (C, H, W) of the images.
        factory: Callable that builds the network. If None, it is imported by ``name``.

    Raises:
        UserError: If the network is not supported; the message states the reason.
    """
    factory = factory or import_factory(name, num_classes)
    _check_factory(name, factory)
    with warnings.catch_warnings(record=True) as unlisted:
        warnings.simplefilter("always")
        space = build_space_from_factory(name, factory, num_classes, shape, custom=True)
    for warning in unlisted:
        warnings.warn(warning.message, stacklevel=2)
    _check_forward_passes(space)
    return space


def _check_factory(name: str, factory: Callable[[], nn.Module]) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            model = factory()
    except TypeError as error:
        raise UserError(
            f"--model {name}: {error}; the factory must not require arguments other than num_classes"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"--model {name}: the factory returns a {type(model).__name__}; it must return a torch.nn.Module"
        )


def _check_forward_passes(space: SearchSpace) -> None:
    """Run the PruningNet and plain networks on the meta device: at the smallest, full and mixed widths."""
    mixed = space.nev_from_indices([gene % (FULL + 1) for gene in range(len(space.genes))])
    try:
        with torch.device("meta"):
            net = PruningNet(space)
            for nev in (space.nev_from_indices([0] * len(space.genes)), space.unpruned, mixed):
                images = torch.empty(2, *space.shape)
                scores = first_output(net.train()(images, nev))
                if tuple(scores.shape) != (2, space.num_classes):
                    raise UserError(
                        f"{space.arch}: the output has shape {tuple(scores.shape[1:])} per image, but the data has"
                        f" {space.num_classes} classes; return one score per class"
                    )
                net.plain_network(nev)(images)
        space.build(mixed)
    except UserError:
        raise
    except Exception as error:  # custom code may raise anything on unexpected shapes
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{space.arch}: not supported by a PruningNet: {reason}") from error
