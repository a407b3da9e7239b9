"""Continue training a pruned network with the optimizer, and the learning-rate schedule, of the unpruned one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from common.channels.example import Inputs
from common.channels.remove import kept_entries
from common.errors import UserError
from common.wrapped import plain_network


def transfer_optimizer(
    optimizer: Optimizer,
    model: nn.Module,
    smaller: nn.Module,
    kept: Mapping[str, Sequence[int]],
    example_input: Inputs,
) -> Optimizer:
    """Make the optimizer of a network train its pruned network instead, in place, and return it.

    The options of its parameter groups are kept, and its schedulers remain valid. So is the state of the kept channels, such as
    momentum and Adam's moments; the state of a parameter that pruning did not only make smaller starts again. Parameters of other
    networks are not changed, frozen ones stay frozen.

    Args:
        optimizer: An optimizer of parameters of ``model``.
        model: The unpruned network.
        smaller: The pruned network, on the device on which it will be trained.
        kept: Indices of the kept channels, by group, as given to :func:`common.channels.keep_channels`.
        example_input: Batch of the shape that the networks read.

    Raises:
        UserError: If the optimizer has no parameter of ``model``.
    """
    before, after = (dict(plain_network(network).named_parameters()) for network in (model, smaller))
    names = {id(parameter): name for name, parameter in before.items()}
    if not any(id(parameter) in names for group in optimizer.param_groups for parameter in group["params"]):
        raise UserError(
            "optimizer: it has no parameter of the unpruned network; give the optimizer that trained that network"
        )
    entries = kept_entries(model, example_input, kept)
    states, places = dict(optimizer.state), {}
    optimizer.state.clear()
    for group in optimizer.param_groups:
        given, group["params"] = group["params"], []
        for parameter in given:
            name = names.get(id(parameter))
            new = parameter if name is None else after.get(name)
            if new is None:
                continue  # the pruned network does not have it
            if name is not None:
                places[name] = group
                new.requires_grad_(parameter.requires_grad)
            group["params"].append(new)
            state = states.get(parameter, {})
            found = state if new is parameter else _kept_state(state, parameter, new, entries.get(name or ""))
            if found:
                optimizer.state[new] = found
    _add_new(after, before, places)
    return optimizer


def _kept_state(state: Mapping[str, Any], before: Tensor, after: Tensor, entries: Tensor | None) -> dict[str, Any]:
    """Return a parameter's state for its kept entries; empty if that is not known. entries: their positions, as ``after``."""
    if entries is None or entries.shape != after.shape:
        return {}
    found: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == before.shape and before.dim():
            found[key] = value.detach().flatten()[entries.to(value.device)].to(after.device)
        elif isinstance(value, Tensor) and value.numel() > 1:
            return {}  # of an optimizer that does not keep a value per entry
        else:
            found[key] = value
    return found


def _add_new(after: Mapping[str, nn.Parameter], before: Mapping[str, nn.Parameter], places: Mapping[str, dict]) -> None:
    """Add the parameters that only the pruned network has to the group of the parameter before them."""
    place = next(iter(places.values()), None)
    for name, parameter in after.items():
        place = places.get(name, place)
        if name not in before and place is not None:
            place["params"].append(parameter)
