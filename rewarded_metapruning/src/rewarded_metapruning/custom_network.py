"""A user's own network (--model PACKAGE.MODULE:FACTORY): its channel groups are the genes, if leading channels make a network."""

import warnings
from collections.abc import Callable

import torch
from torch import nn

from common.errors import UserError
from common.factory import import_factory
from rewarded_metapruning.pruning_net import PruningNet
from rewarded_metapruning.scale import FULL
from rewarded_metapruning.space import SearchSpace, space_of_factory


def own_space(
    name: str, num_classes: int, shape: tuple[int, int, int], factory: Callable[[], nn.Module] | None = None
) -> SearchSpace:
    """The space of a user's own network, for this many classes and images (C, H, W).

    Args:
        factory: Builds the network; None imports it by its name, ``PACKAGE.MODULE:FACTORY``.

    Raises:
        UserError: With the reason, for a network that no PruningNet can be made for.
    """
    factory = factory or import_factory(name, num_classes)
    _require_network(name, factory)
    with warnings.catch_warnings(record=True) as unlisted:
        warnings.simplefilter("always")
        space = space_of_factory(name, factory, num_classes, shape, own=True)
    for warning in unlisted:
        warnings.warn(warning.message, stacklevel=2)
    _try_out(space)
    return space


def _require_network(name: str, factory: Callable[[], nn.Module]) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            model = factory()
    except TypeError as error:
        raise UserError(f"--model {name}: {error}; the factory is called without arguments but num_classes") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--model {name} builds a {type(model).__name__}, not a network")


def _try_out(space: SearchSpace) -> None:
    """Forward passes without arithmetic, of the PruningNet and of plain networks: narrowest, widest, all different."""
    mixed = space.nev_of([gene % (FULL + 1) for gene in range(len(space.genes))])
    try:
        with torch.device("meta"):
            net = PruningNet(space)
            for nev in (space.nev_of([0] * len(space.genes)), space.unpruned, mixed):
                images = torch.empty(2, *space.shape)
                scores = net.train()(images, nev)
                if tuple(scores.shape) != (2, space.num_classes):
                    raise UserError(
                        f"{space.arch} gives scores {tuple(scores.shape[1:])}, the data has {space.num_classes} classes"
                    )
                net.plain_network(nev)(images)
        space.build(mixed)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's code raises on shapes that it was not written for
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"no PruningNet can be made for {space.arch}: {reason}") from error
