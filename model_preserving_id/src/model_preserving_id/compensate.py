"""Beyond the paper, and off by default: each cut makes good what the cuts before it lost. Unlabelled inputs, closed form.

The paper's T lets a layer's kept channels stand for all of its channels *in the network that is being cut*; what earlier
cuts changed stays changed. From the network's input to its output, one reading layer after the other:
  t        T is solved so that the kept channels give what the original network's channels were (Z_0 ~= Z[:, I] T)
  weights  the whole weight of the reading layer is solved so that its output, plus what is added to it, is the original's
           (the reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, with the sum that the layer adds into)
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from common.models import PadShortcut
from model_preserving_id.activations import call_order, gather
from model_preserving_id.refit import can_refit, refit_weight
from model_preserving_id.subject import Subject

COMPENSATIONS = ("none", "t", "weights")


def check_compensation(how: str) -> None:
    if how not in COMPENSATIONS:
        raise UserError(f"--compensation {how}: expected one of {', '.join(COMPENSATIONS)}")


def compensate(subject: Subject, inputs: Iterable[Tensor], how: str, *, device: torch.device | str = "cpu") -> None:
    """Solve the layers that read cut groups anew, in the order of execution; the channels that stay do not change.

    ``weights`` leaves layers that it cannot solve (grouped, one- and three-dimensional) to ``t``. Two passes over a part of
    the network per layer.
    """
    check_compensation(how)
    cut = [name for name, kept in subject.kept.items() if len(kept) < subject.groups[name].size]
    if how == "none" or not cut:
        return
    consumers = {one.consumer for one in subject.all_readings(cut)}
    order = call_order(subject.model, consumers, subject.example_input)
    for consumer in tqdm(order, desc="compensation", disable=None, leave=False):
        module = subject.model.get_submodule(consumer)
        if isinstance(module, PadShortcut):
            continue
        if how == "weights" and can_refit(module):
            refit_weight(subject, consumer, inputs, device=device)
            continue
        reads = [one for one in subject.all_readings(cut) if one.consumer == consumer]
        found = gather(subject.model, reads, inputs, reference=subject.original, device=device)
        for one in reads:
            subject.refold(one, found[one.group])
