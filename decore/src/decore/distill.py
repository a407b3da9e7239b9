"""Fine-tuning towards the dense network's outputs (Hinton et al. 2015, arXiv 1503.02531); beyond the paper, off by default."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch

TEMPERATURE = 4.0


def distillation(teacher: nn.Module, share: float, label_smoothing: float = 0.0) -> Callable:
    """A loss for :func:`common.training.fit`: (1 - share) cross-entropy + share T^2 KL(teacher, student), summed over examples.

    The teacher stays in eval mode and gets no gradient.
    """
    teacher.eval()

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = network(batch.images)
        with torch.no_grad():
            wanted = F.log_softmax(teacher(batch.images).float() / TEMPERATURE, dim=1)
        found = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
        distance = TEMPERATURE**2 * F.kl_div(found, wanted, reduction="sum", log_target=True)
        entropy = F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=label_smoothing)
        return (1 - share) * entropy + share * distance, logits

    return loss
