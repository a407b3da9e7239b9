"""The dense network of a seed: trained once, or given; everything is measured against what was read back from its file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.checkpoint import load_model, save_model
from common.data import DataBundle
from common.measure import Accuracy, evaluate, measure_files, side
from common.models import arguments_for, create_model
from common.runs import Run, open_run
from common.train import train_baseline
from common.trained import normalized_as
from common.training import TrainOptions


@dataclass
class Dense:
    """A trained network, its file, and the test decisions that others are compared with (measured once, when needed)."""

    run: Run
    data: DataBundle
    device: torch.device
    model: nn.Module = field(init=False)
    _accuracy: list[Accuracy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = load_model(self.run.model_path)
        self.data = normalized_as(self.model, self.data)

    @property
    def file(self) -> Path:
        return self.run.model_path

    @property
    def accuracy(self) -> Accuracy:
        if not self._accuracy:
            self._accuracy.append(self.measure(self.model, None))
        return self._accuracy[0]

    @property
    def side(self) -> dict:
        """The baseline's side of metrics.json, without latency."""
        return side(self.model, self.accuracy, self.data.input_shape, self.file.stat().st_size)

    def measure(self, model: nn.Module, reference: Tensor | None) -> Accuracy:
        model = model.to(self.device, memory_format=torch.channels_last)
        return evaluate(model, self.data.test, device=self.device, reference=reference)


def train_dense(
    out: Path,
    arch: str,
    data: DataBundle,
    recipe: TrainOptions,
    device: torch.device,
    seed: int,
    force: bool = False,
    latency: bool = True,
) -> Dense:
    """Train the network of a seed in OUT/seedS/baseline, unless that is done."""
    options = {"arch": arch, "dataset": data.name, "seed": seed, **recipe.identity()}
    run = open_run(
        out / f"seed{seed}" / "baseline", "compare", options, device=device, fingerprint=data.fingerprint, force=force
    )
    if not run.finished:
        torch.manual_seed(seed)
        model = create_model(arch, num_classes=data.num_classes, **arguments_for(arch, data.input_shape))
        train_baseline(run, model, data, recipe, device, seed, latency=latency)
    return Dense(run, data, device)


def given_dense(
    out: Path,
    load: Callable[[], nn.Module],
    source: str,
    digest: str,
    data: DataBundle,
    device: torch.device,
    force: bool = False,
    latency: bool = True,
) -> Dense:
    """A network from elsewhere, kept as a checkpoint in OUT/baseline, the same for all seeds. source, digest: of its file."""
    options = {"dataset": data.name, "seed": None, "source": Path(source).name, "digest": digest}
    run = open_run(out / "baseline", "compare", options, device=device, fingerprint=data.fingerprint, force=force)
    if not run.finished:
        model = load()
        data = normalized_as(model, data)
        save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        arch = getattr(model, "architecture", {"arch": None})["arch"]
        run.finish({"arch": arch, **measure_files({"baseline": run.model_path}, data, device=device, latency=latency)})
    return Dense(run, data, device)
