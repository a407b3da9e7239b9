"""The calls of layers in two networks, from input to output: the unpruned network, and the one whose weights are re-solved."""

from collections.abc import Iterator, Sequence
from itertools import chain

from torch import Tensor, nn

from common.reconstruction.hooked_network import HookedNetwork
from common.reconstruction.layers_in_order import LayerCall, TracedNetwork

MEMORY = 2 * 2**30  # bytes; if the paused forward passes of both networks fit, each network is run only once

OrderedNetwork = TracedNetwork | HookedNetwork
Calls = Iterator[tuple[LayerCall, LayerCall]]


def open_layers(network: nn.Module, names: Sequence[str], example: Tensor) -> OrderedNetwork:
    """Wrap a network so that the calls of the named layers can be read in order."""
    try:
        return TracedNetwork(network, names, example)
    except Exception:  # tracing arbitrary code can raise any error
        return HookedNetwork(network, names, example)


def calls_by_layer(
    unpruned: nn.Module,
    pruned: nn.Module,
    names: Sequence[str],
    example: Tensor,
    inputs: Sequence[Tensor],
    memory: int = MEMORY,
) -> Iterator[tuple[str, Calls]]:
    """Yield (layer, its calls in the unpruned network and in the network being pruned, by batch), from input to output.

    All calls of a layer must be read, and its weight solved, before the next layer is requested.

    Args:
        names: The layers.
        example: A batch of the shape that the networks read.
        inputs: Batches of images.
        memory: Bytes for paused forward passes. From the first layer on at which all images fit, they advance from layer to layer
            together; before it, both networks run again for each layer, up to that layer.
    """
    before, after = (open_layers(network, names, example) for network in (unpruned, pruned))
    order, count = after.order, sum(map(len, inputs))
    while order and count * (before.paused_bytes(order) + after.paused_bytes(order)) > memory:
        name, *order = order
        both = (zip(before.layers_in_order(x, [name]), after.layers_in_order(x, [name]), strict=True) for x in inputs)
        yield name, chain.from_iterable(both)
    paused = [(before.layers_in_order(x, order), after.layers_in_order(x, order)) for x in inputs]
    for name in order:
        yield name, ((next(dense), next(now)) for dense, now in paused)
