"""Reconstruct the consumers' weights, which also compensates for the errors of earlier pruning (not in the paper).

The paper's T reproduces a layer's channels from the kept ones *in the network that is being pruned*; errors caused by pruning
earlier layers remain. Here consumers are processed from the network's input to its output, with unlabeled images:

  t        T is re-solved such that the kept channels reproduce the channels of the unpruned network (Z_0 ~= Z[:, I] T)
  weights  the consumer's weight is re-solved such that its output, plus the residual that is added to it, equals that of the
           unpruned network (the reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, extended to residual sums)

Both are linear least-squares problems with a closed-form solution.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from common.data.batches import take_images
from common.errors import UserError
from common.layers import weight_of
from common.models import PadShortcut
from common.progress import track
from common.reconstruction.paired_calls import MEMORY, Calls, calls_by_layer
from common.reconstruction.refit import can_refit, refit_weight, remaining_inputs
from model_preserving_id.activations import ConsumerInput, GramStatistics, eval_mode, input_rows
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.gram import Gram
from model_preserving_id.settings import COMPENSATIONS, RECONSTRUCTION_IMAGES


def check_compensation(compensation: str) -> None:
    """Raise UserError for an unknown value."""
    if compensation not in COMPENSATIONS:
        raise UserError(f"--compensation {compensation}: expected one of {', '.join(COMPENSATIONS)}")


@torch.no_grad()
def compensate(
    folded: FoldedNetwork,
    inputs: Iterable[Tensor],
    compensation: str,
    *,
    count: int = RECONSTRUCTION_IMAGES,
    memory: int = MEMORY,
) -> None:
    """Re-solve the consumers of pruned groups in the order of execution, in place; the kept channels do not change.

    Args:
        inputs: Batches of images, without labels; the first ``count`` images are used.
        compensation: ``none``, ``t`` or ``weights``. Layers that ``weights`` cannot solve (grouped, one- and
            three-dimensional convolutions) are solved by ``t``.
        memory: Bytes for paused forward passes. Layers with larger feature maps are re-solved from fewer images: see
            :func:`common.reconstruction.paired_calls.calls_by_layer`.
    """
    check_compensation(compensation)
    pruned = folded.pruned_groups
    modules = dict(folded.model.named_modules())
    consumers = {one.consumer for one in folded.consumer_inputs(pruned)}
    names = [name for name in modules if name in consumers and not isinstance(modules[name], PadShortcut)]
    if compensation == "none" or not names:
        return
    images = take_images(inputs, count)
    with eval_mode(folded.unpruned), eval_mode(folded.model):
        by_layer = calls_by_layer(folded.unpruned, folded.model, names, folded.example, images, memory)
        for consumer, calls in track(by_layer, "compensation", len(names)):
            module = modules[consumer]
            if compensation == "weights" and can_refit(module):
                width = weight_of(module).shape[1]
                remaining = remaining_inputs(folded.groups.values(), folded.kept, consumer, width)
                refit_weight(consumer, module, remaining, calls)
                continue
            consumed = [one for one in folded.consumer_inputs(pruned) if one.consumer == consumer]
            for one, statistics in zip(consumed, _statistics(consumed, calls), strict=True):
                folded.refold_consumer(one, statistics)


def _statistics(consumed: list[ConsumerInput], calls: Calls) -> list[GramStatistics]:
    """Compute Z^T Z and Z^T Z_0 of each group that one layer reads."""
    grams, cross = ([Gram(one.size) for one in consumed] for _ in range(2))
    for before, now in calls:
        for i, one in enumerate(consumed):
            rows = input_rows(now.layer, now.input, one)
            grams[i].add(rows)
            cross[i].add(rows, input_rows(before.layer, before.input, one))
    return [
        GramStatistics({one.consumer: z.matrix()}, {one.consumer: z.count}, {one.consumer: c.matrix()})
        for one, z, c in zip(consumed, grams, cross, strict=True)
    ]
