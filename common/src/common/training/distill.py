"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531, section 2)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch
from common.outputs import class_scores

TEMPERATURE = 4.0


def distillation_loss(
    teacher: nn.Module, weight: float, label_smoothing: float = 0.0, temperature: float = TEMPERATURE
) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]:
    """Return a loss for :func:`common.training.fit`, summed over examples.

    The loss is (1 - weight) cross-entropy + weight T^2 KL(teacher, student), with outputs softened by the temperature T. The
    teacher stays in eval mode and receives no gradient.
    """
    teacher.eval()

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = class_scores(network(batch.images))
        with torch.no_grad():
            target = F.log_softmax(class_scores(teacher(batch.images)).float() / temperature, dim=1)
        output = F.log_softmax(logits.float() / temperature, dim=1)
        distance = temperature**2 * F.kl_div(output, target, reduction="sum", log_target=True)
        entropy = F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=label_smoothing)
        return (1 - weight) * entropy + weight * distance, logits

    return loss
