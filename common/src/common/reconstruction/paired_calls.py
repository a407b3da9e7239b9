"""The calls of layers in two networks, from input to output: the unpruned network, and the one whose weights are re-solved."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain

from torch import Tensor, nn

from common.data.batches import take_images
from common.reconstruction.hooked_network import HookedNetwork
from common.reconstruction.layers_in_order import LayerCall, TracedNetwork

MEMORY = 2 * 2**30  # bytes of the paused forward passes of both networks
FEWEST = 16  # images, whatever they need
MORE = 1.5  # times as many images are worth running the layers before again

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
        memory: Bytes for paused forward passes, which advance from layer to layer together. The first layers, whose feature maps
            are the largest, are called with the first images, as many as fit and at least ``FEWEST``; where all or ``MORE``
            times as many fit, these start. If passes cannot pause, both networks run again for each layer, up to that layer.
    """
    before, after = (open_layers(network, names, example) for network in (unpruned, pruned))
    order, total = list(before.order), sum(map(len, inputs))

    def needed(layers: Sequence[str]) -> float:
        return before.paused_bytes(layers) + after.paused_bytes(layers)

    def fitting(layers: Sequence[str]) -> int:
        return min(total, max(FEWEST, int(memory / needed(layers))))

    if order and math.isinf(needed(order)):
        for name in order:
            both = (
                zip(before.layers_in_order(x, [name]), after.layers_in_order(x, [name]), strict=True) for x in inputs
            )
            yield name, chain.from_iterable(both)
        return
    while order:
        count = fitting(order)
        more = (i for i in range(1, len(order)) if count < total and fitting(order[i:]) >= min(total, MORE * count))
        end = next(more, len(order))
        now, order = order[:end], order[end:]
        paused = [(before.layers_in_order(x, now), after.layers_in_order(x, now)) for x in take_images(inputs, count)]
        for name in now:
            yield name, ((next(dense), next(smaller)) for dense, smaller in paused)
