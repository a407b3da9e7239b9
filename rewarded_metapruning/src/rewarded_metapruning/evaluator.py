"""Evaluate search candidates (arXiv 2301.11063, section "Searching").

A candidate is a plain network with generated weights. Its batch-norm statistics are recalibrated on training images, the same
ones for all candidates, and its accuracy is measured on held-out images. Candidates do not affect one another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from common.batchnorm import recalibrate_batch_norm
from common.data import ImageSet, MemoryImages
from common.layers import to_device
from common.measure import evaluate
from rewarded_metapruning.pruning_net import PruningNet

CACHE_BYTES = 512 * 2**20  # calibration images are cached in memory up to this size
MIN_PART = 2


@dataclass(frozen=True)
class CandidateMetrics:
    """Accuracy of a candidate: top-1 and top-5 in percent, mean loss."""

    top1: float
    top5: float
    loss: float


@dataclass
class CandidateEvaluator:
    """Evaluate encoding vectors with a trained PruningNet.

    Attributes:
        pruning_net: The PruningNet, in eval mode, on ``device``.
        calibration: Training images for batch-norm calibration, augmented as during training.
        images: Images on which accuracy is measured.
        batches: Number of calibration batches of ``batch_size`` images.
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
    _cached: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, nev: Sequence[int]) -> CandidateMetrics:
        """Return top-1, top-5 (percent) and mean loss. The result depends only on ``nev`` and ``seed``."""
        return self.measure(self.build_calibrated(nev))

    def build_calibrated(self, nev: Sequence[int]) -> nn.Module:
        """Build the plain network of a NEV: generated weights, running statistics averaged over the calibration batches."""
        model = to_device(self.pruning_net.plain_network(nev), self.device)
        with torch.no_grad(), self._autocast():
            return recalibrate_batch_norm(model, self._calibration_inputs(), self.device)

    def measure(self, model: nn.Module) -> CandidateMetrics:
        """Measure a network on ``images``."""
        with self._autocast():
            found = evaluate(model, self.images, device=self.device, workers=self.workers, batch_size=self.batch_size)
        return CandidateMetrics(found.top1, found.top5, found.loss)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.amp)

    def _calibration_inputs(self) -> Sequence[Tensor] | Iterator[Tensor]:
        if self._cached:
            return self._cached
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
        if isinstance(self.calibration, MemoryImages) and bytes_of_all <= CACHE_BYTES:
            self._cached = list(inputs)
            return self._cached
        return inputs
