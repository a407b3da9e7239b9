"""The networks that ``latency`` and ``profile`` time: files of pruned networks, or a network pruned uniformly, after the dense one.

Times do not depend on the weights, so that a network without files is built with random ones. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import ROUNDING, TARGET_MACS, shorten
from common.errors import UserError, one_line
from common.options import (
    ARCHITECTURES_HELP,
    FACTORY,
    LIBRARIES,
    NO_INPUT_SHAPE,
    NetworkOptions,
    input_shape_option,
    model_option,
)
from common.settings import option, settings

if TYPE_CHECKING:
    from torch import nn

DENSE = "dense"
DENSE_LIMIT = 250_000_000  # parameters of a dense network that is built from the architecture named in a file


def round_to_option(default: list[int]) -> Any:
    """Return the option --round-to, which has another default in each command."""
    return option(default, "layer widths are multiples of these numbers (without --checkpoint)", type=ROUNDING)


@settings
class TimedNetworks:
    """Networks to time."""

    checkpoint: list[str] = option([], "files of compressed networks of one architecture")
    dense: str | None = option(
        None, "file of the dense network (default: it is built by --model, or from the architecture in the files)"
    )
    arch: str | None = option(None, f"registered network to prune uniformly, instead of files: {ARCHITECTURES_HELP}")
    model: str | None = model_option("; pruned uniformly if no --checkpoint is given")
    input_shape: list[int] | None = input_shape_option(" (default: that of the registered network)")
    target_macs: float = option(0.5, "fraction of the MACs to keep (without --checkpoint)", type=TARGET_MACS)
    round_to: list[int] = round_to_option([1, 8])

    def __post_init__(self) -> None:
        if bool(self.checkpoint or self.model) == bool(self.arch):
            raise UserError(
                "--checkpoint, --arch: exactly one is required; give --checkpoint FILE, --arch NAME or --model "
                + FACTORY
            )
        if self.model and not self.input_shape and not self.checkpoint and not self.model.startswith(LIBRARIES):
            raise UserError(f"--model {self.model}: {NO_INPUT_SHAPE}")


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


def open_networks(settings: TimedNetworks) -> tuple[dict[str, nn.Module], Sequence[int]]:
    """Return {name: network}, the dense one first, and the shape of one example, which all of them accept. Raises UserError."""
    networks = _read_or_build(settings)
    shape = settings.input_shape or _known_shape(networks, settings)
    _check_shape(networks, shape)
    return networks, shape


def _read_or_build(settings: TimedNetworks) -> dict[str, nn.Module]:
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


def _known_shape(networks: Mapping[str, nn.Module], settings: TimedNetworks) -> Sequence[int]:
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
