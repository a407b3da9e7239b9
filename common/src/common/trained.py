"""A trained network with its data and its accuracy before anything was done to it: what a compression method starts from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.data import DataBundle
from common.measure import Accuracy, evaluate


@dataclass
class Trained:
    """A network, the pictures that it was trained on and is tested on, the file it came from, and its factory if it has one."""

    model: nn.Module
    data: DataBundle
    name: str
    file: Path | None = None
    factory: Callable[[], nn.Module] | None = None
    device: torch.device | str = "cpu"
    workers: int = 2
    _accuracy: list[Accuracy] = field(default_factory=list)

    @property
    def example_input(self) -> Tensor:
        """A batch of one, of the shape that the network reads."""
        return torch.zeros(1, *self.data.input_shape)

    @property
    def bytes(self) -> int:
        """Size of the file on disk; of the tensors if there is none."""
        if self.file is not None:
            return self.file.stat().st_size
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    @property
    def accuracy(self) -> Accuracy:
        """On the test pictures; measured once, when it is first asked for."""
        if not self._accuracy:
            self._accuracy.append(self._evaluate(self.model, None))
        return self._accuracy[0]

    def measure(self, model: nn.Module) -> Accuracy:
        """Accuracy of another network on the same pictures, and its agreement with this one."""
        return self._evaluate(model, self.accuracy.predictions)

    def _evaluate(self, model: nn.Module, reference: Tensor | None) -> Accuracy:
        model = model.to(
            self.device, memory_format=torch.channels_last if len(self.data.input_shape) == 3 else torch.preserve_format
        )
        return evaluate(model, self.data.test, device=self.device, workers=self.workers, reference=reference)

    @property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over the network's tensors: what a run depends on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]


def normalized_as(model: nn.Module, data: DataBundle) -> DataBundle:
    """The data normalised as the checkpoint says, if the network came from one that does."""
    known = (getattr(model, "checkpoint_header", None) or {}).get("normalize")
    return data.with_normalization(known["mean"], known["std"]) if known else data
