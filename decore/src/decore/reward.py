"""Rewards (section 3.2 of the paper): per example b and layer i,  R_bi = R_bi,C * R_b,acc."""

import math

import torch
from torch import Tensor


def accuracy_reward(correct: Tensor, penalty: float) -> Tensor:
    """R_acc (N,): 1 where the masked network decides correctly, else -penalty (the paper's lambda)."""
    return torch.where(correct, 1.0, -float(penalty))


def compression_reward(actions: Tensor, layer_of: Tensor, layers: int, weights: Tensor | None = None) -> Tensor:
    """R_C (N, L): number of channels dropped in each layer, R_i,C = sum_j (1 - a_ij).

    actions: (N, C) of 0 and 1; layer_of: (C,) int64, the layer of each channel; weights: (C,), what a dropped channel
    counts, 1 if not given.
    """
    dropped = 1 - actions
    if weights is not None:
        dropped = dropped * weights
    return torch.zeros(len(actions), layers, device=actions.device).index_add_(1, layer_of, dropped)


def correct_decisions(logits: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Whether the label (N,) is among the ``top`` largest logits (N, K): (N,) bool."""
    if top == 1:
        return logits.argmax(1) == labels
    return (logits.topk(min(top, logits.shape[1]), dim=1).indices == labels[:, None]).any(1)


def required_accuracy(penalty: float) -> float:
    """The sign condition: the expected R_acc is positive iff the accuracy under masks is above penalty / (1 + penalty)."""
    return penalty / (1 + penalty)


def largest_penalty(accuracy: float) -> float:
    """The penalty at which the expected R_acc of a network of this accuracy, in [0, 1], is zero."""
    return accuracy / (1 - accuracy) if accuracy < 1 else math.inf
