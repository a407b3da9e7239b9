"""Network with one wide hidden layer: first experiment of the interpolative-decomposition paper (arXiv 2108.00065)."""

import torch.nn.functional as F
from torch import Tensor, nn


class OneHiddenLayer(nn.Module):
    """linear, relu, linear. (N, ...) with ``in_features`` values per example -> (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_features: int = 784, hidden: int = 4096) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
