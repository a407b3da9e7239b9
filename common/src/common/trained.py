"""A trained network with its data and its accuracy before anything was done to it: what a compression method starts from."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import load_model
from common.data import DataBundle
from common.log import Say
from common.measure import Accuracy, evaluate, latency_ms, side


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

    def sides(self, file: Path, after_cut: Accuracy | None = None, latency: bool = True) -> dict[str, dict[str, Any]]:
        """baseline, after_cut (if it was measured, before any fine-tuning) and compressed of metrics.json.

        file: the compressed network as it was saved; it is read back. latency: of both networks, in turns.
        """
        model = load_model(file, self.factory)
        shape, size, accuracy = self.data.input_shape, file.stat().st_size, self.measure(model)
        sides = {"baseline": side(self.model, self.accuracy, shape, self.bytes)}
        if after_cut is not None:
            sides["after_cut"] = side(model, after_cut, shape, size)
        sides["compressed"] = side(model, accuracy, shape, size)
        if latency:
            timed = latency_ms({"baseline": self.model, "compressed": model}, shape, device=self.device)
            for name, milliseconds in timed.items():
                sides[name]["latency_ms"] = milliseconds
        return sides

    @property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 over the network's tensors: what a run depends on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]


def say_result(label: str, sides: Mapping[str, Mapping[str, Any]], say: Say) -> None:
    """What came out, of :meth:`Trained.sides`: top-1 and agreement in percent, MACs and parameters in millions."""
    dense, cut, small = sides["baseline"], sides["after_cut"], sides["compressed"]
    say(
        f"{label}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} % ({cut['top1']:.2f} % before fine-tuning),"
        f" agreement {small['agreement']:.2f} %"
    )
    for what in ("macs", "params"):
        gone = 100 * (1 - small[what] / dense[what])
        say(f"{label}: {what} {dense[what] / 1e6:.2f} M -> {small[what] / 1e6:.2f} M, {gone:.2f} % removed")


def normalized_as(model: nn.Module, data: DataBundle) -> DataBundle:
    """The data normalised as the checkpoint says, if the network came from one that does."""
    known = (getattr(model, "checkpoint_header", None) or {}).get("normalize")
    return data.with_normalization(known["mean"], known["std"]) if known else data
