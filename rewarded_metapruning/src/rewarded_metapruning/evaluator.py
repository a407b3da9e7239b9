"""Evaluate candidates of a search (arXiv 2301.11063, section "Searching").

A candidate is a plain network with generated weights: batch norm is calibrated on training images, and accuracy is measured on
held-out ones. Each is a new network, so candidates do not affect one another; the calibration images are the same for all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from common.batchnorm import recalibrate_batch_norm
from common.data import ImageSet, MemoryImages
from common.layers import placed
from common.measure import evaluate
from rewarded_metapruning.pruning_net import PruningNet

KEPT_BYTES = 512 * 2**20  # calibration images are kept as they are up to this size
MIN_PART = 2


@dataclass(frozen=True)
class CandidateMetrics:
    """top1 and top5 in percent, mean loss."""

    top1: float
    top5: float
    loss: float


@dataclass
class CandidateEvaluator:
    """Evaluate vectors with a trained PruningNet.

    Attributes:
        pruning_net: On its device, in eval mode.
        calibration: Training images that batch norm is calibrated with, augmented as in training.
        images: Those that accuracy is measured on.
        batches: Of calibration images, ``batch_size`` each.
    """

    pruning_net: PruningNet
    calibration: ImageSet
    images: ImageSet
    device: torch.device | str = "cpu"
    batches: int = 100
    batch_size: int = 1000
    seed: int = 0
    workers: int = 2
    amp: bool = False
    _kept: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, nev: Sequence[int]) -> CandidateMetrics:
        """Deterministic for a NEV, whatever was evaluated before."""
        return self.measure(self.calibrated(nev))

    def calibrated(self, nev: Sequence[int]) -> nn.Module:
        """The plain network of a NEV: generated weights, running statistics averaged over the calibration images."""
        model = placed(self.pruning_net.plain_network(nev), self.device)
        with torch.no_grad(), self._precision():
            return recalibrate_batch_norm(model, self._inputs(), self.device)

    def measure(self, model: nn.Module) -> CandidateMetrics:
        with self._precision():
            found = evaluate(model, self.images, device=self.device, workers=self.workers, batch_size=self.batch_size)
        return CandidateMetrics(found.top1, found.top5, found.loss)

    def _precision(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.amp)

    def _inputs(self) -> Sequence[Tensor] | Iterator[Tensor]:
        if self._kept:
            return self._kept
        batches = self.calibration.batches(
            self.batch_size,
            augment=True,
            shuffle=True,
            seed=self.seed,
            device=self.device,
            workers=self.workers,
            channels_last=True,
            min_part=MIN_PART,
        )
        inputs = (batch.images for batch in islice(batches, self.batches))
        bytes_of_all = 4 * self.batches * self.batch_size * torch.Size(self.calibration.image_shape).numel()
        if isinstance(self.calibration, MemoryImages) and bytes_of_all <= KEPT_BYTES:
            self._kept = list(inputs)
            return self._kept
        return inputs
