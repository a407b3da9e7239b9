"""Rewards (section 3.2 of the paper): R_bi = R_bi,C * R_b,acc for example b and layer i."""

import math

import torch
from torch import Tensor


def accuracy_reward(correct: Tensor, penalty: float) -> Tensor:
    """Return R_acc (N,): 1 where the masked network predicts correctly, else -penalty (the paper's lambda)."""
    return torch.where(correct, 1.0, -float(penalty))


def compression_reward(actions: Tensor, layer_index: Tensor, layers: int, weights: Tensor | None = None) -> Tensor:
    """Return R_C (N, L), the number of channels dropped in each layer: R_i,C = sum_j (1 - a_ij).

    Args:
        actions: Zeros and ones, (N, C).
        layer_index: Layer of each channel, (C,) int64.
        layers: Number of layers, L.
        weights: Reward of each dropped channel, (C,); 1 if not given.
    """
    dropped = 1 - actions
    if weights is not None:
        dropped = dropped * weights
    return torch.zeros(len(actions), layers, device=actions.device).index_add_(1, layer_index, dropped)


def correct_predictions(logits: Tensor, labels: Tensor, topk: int = 1) -> Tensor:
    """Return whether the label (N,) is among the ``topk`` largest logits (N, K): (N,) bool."""
    if topk == 1:
        return logits.argmax(1) == labels
    return (logits.topk(min(topk, logits.shape[1]), dim=1).indices == labels[:, None]).any(1)


def required_accuracy(penalty: float) -> float:
    """Return the accuracy under masks above which the expected R_acc is positive: penalty / (1 + penalty)."""
    return penalty / (1 + penalty)


def largest_penalty(accuracy: float) -> float:
    """Return the penalty for which the expected R_acc of a network of this accuracy, in [0, 1], is zero."""
    return accuracy / (1 - accuracy) if accuracy < 1 else math.inf
