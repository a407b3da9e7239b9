"""Beyond the paper, and off by default: each cut makes good what the cuts before it lost. Unlabelled inputs, closed form.

The paper's T lets a layer's kept channels stand for all of its channels *in the network that is being cut*; what earlier
cuts changed stays changed. From the network's input to its output, one reading layer after the other:
  t        T is solved so that the kept channels give what the original network's channels were (Z_0 ~= Z[:, I] T)
  weights  the whole weight of the reading layer is solved so that its output, plus what is added to it, is the original's
           (the reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, with the sum that the layer adds into)
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import Reading, Statistics, eval_mode, rows_read
from model_preserving_id.damage import first_inputs
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.hooked_network import HookedNetwork
from model_preserving_id.layers_in_order import LayerCall, TracedNetwork
from model_preserving_id.refit import can_refit, refit_weight
from model_preserving_id.rows import Gram
from model_preserving_id.settings import COMPENSATIONS, INPUTS

MEMORY = 2 * 2**30  # bytes: as long as all inputs fit, paused in both networks, each network is run once in all

NetworkOptions = TracedNetwork | HookedNetwork
Calls = Iterator[tuple[LayerCall, LayerCall]]


def check_compensation(how: str) -> None:
    if how not in COMPENSATIONS:
        raise UserError(f"--compensation {how}: expected one of {', '.join(COMPENSATIONS)}")


@torch.no_grad()
def compensate(
    folded: FoldedNetwork, inputs: Iterable[Tensor], how: str, *, count: int = INPUTS, memory: int = MEMORY
) -> None:
    """Solve the layers that read cut groups anew, in the order of execution; the channels that stay do not change.

    ``weights`` leaves layers that it cannot solve (grouped, one- and three-dimensional) to ``t``. The first ``count`` inputs
    are used. If ``memory`` bytes allow, they advance from layer to layer together; else both networks run again for each layer.
    """
    check_compensation(how)
    cut = folded.removed_from
    modules = dict(folded.model.named_modules())
    consumers = {one.consumer for one in folded.all_readings(cut)}
    names = [name for name in modules if name in consumers and not isinstance(modules[name], PadShortcut)]
    if how == "none" or not names:
        return
    inputs = first_inputs(inputs, count)
    with eval_mode(folded.original), eval_mode(folded.model):
        original = _in_order(folded.original, names, folded.example)
        model = _in_order(folded.model, names, folded.example)
        by_layer = _calls_by_layer(original, model, inputs, memory)
        for consumer, calls in tqdm(by_layer, "compensation", len(model.order), leave=False, disable=None):
            if how == "weights" and can_refit(modules[consumer]):
                refit_weight(folded, consumer, calls)
                continue
            reads = [one for one in folded.all_readings(cut) if one.consumer == consumer]
            for one, statistics in zip(reads, _statistics(reads, calls), strict=True):
                folded.refold(one, statistics)


def _in_order(network: nn.Module, names: Sequence[str], example: Tensor) -> NetworkOptions:
    """The network with a forward pass that shows the named layers in their order."""
    try:
        return TracedNetwork(network, names, example)
    except Exception:  # whatever code that cannot be traced raises when it is
        return HookedNetwork(network, names, example)


def _calls_by_layer(
    original: NetworkOptions, model: NetworkOptions, inputs: Sequence[Tensor], memory: int
) -> Iterator[tuple[str, Calls]]:
    """(layer, its calls in the original network and in the one being pruned, batch by batch), from input to output.

    Read all calls of a layer, and solve it, before asking for the next layer.
    """
    if sum(map(len, inputs)) * (original.paused_bytes + model.paused_bytes) <= memory:
        paused = [(original.layers_in_order(x, model.order), model.layers_in_order(x, model.order)) for x in inputs]
        for name in model.order:
            yield name, ((next(before), next(now)) for before, now in paused)
    else:
        for name in model.order:
            both = (
                zip(original.layers_in_order(x, [name]), model.layers_in_order(x, [name]), strict=True) for x in inputs
            )
            yield name, chain.from_iterable(both)


def _statistics(reads: list[Reading], calls: Calls) -> list[Statistics]:
    """Of each group that one layer reads: Z^T Z and Z^T Z_0."""
    grams, cross = ([Gram(one.size) for one in reads] for _ in range(2))
    for before, now in calls:
        for i, one in enumerate(reads):
            rows = rows_read(now.layer, now.input, one)
            grams[i].add(rows)
            cross[i].add(rows, rows_read(before.layer, before.input, one))
    return [
        Statistics({one.consumer: z.matrix()}, {one.consumer: z.count}, {one.consumer: c.matrix()})
        for one, z, c in zip(reads, grams, cross, strict=True)
    ]
