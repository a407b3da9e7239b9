"""Check that a method obeys limits on layers: the widths in the written file, and the target."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common.channels.resize import width
from common.data.own_data import own_data
from common.formats import load_network
from common.limits import Limits
from common.methods import Method
from common.pipeline import FineTuning, compress
from common.runs import open_stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions

WIDTHS = {"stem": 16, "blocks.0.0": 48, "blocks.0.3": 16, "blocks.1.0": 48, "blocks.1.3": 16, "head": 64}
LIMITS = {
    "ignored_layers": ["blocks.1", "fc"],
    "only": ["blocks.*", "head"],  # not the stem, and therefore not the residual stream
    "min_channels": 22,
    "max_pruned": 0.6,
    "round_to": 2,
}
ALLOWED = {name: {size} for name, size in WIDTHS.items()} | {
    "blocks.0.0": set(range(22, 49, 2)),  # --min-channels is the tighter limit
    "head": set(range(26, 65, 2)),  # --max-pruned is the tighter limit
}
TARGET = 0.8


class LimitedNetwork(nn.Module):
    """A small residual network: a stem, two blocks that add to its channels, a wide convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(_block() for _ in range(2))
        self.head = nn.Conv2d(16, 64, 3, padding=1)
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.fc(self.head(x).relu().mean((2, 3)))


def _block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(16, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 16, 3, padding=1)
    )


def limited_start(**limits: object) -> TrainedModel:
    """Return a small network with labeled data and these limits."""
    torch.manual_seed(0)
    model = LimitedNetwork().eval()
    images = torch.randn(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # it predicts every class, and its predictions are the labels
        model.fc.bias.sub_(model(images).mean(0))
        labels = model(images).argmax(1)
    data, _ = own_data((images, labels), classes=list("abcd"))
    start = TrainedModel("limited", model, data, factory=LimitedNetwork)
    found = Limits.of(model, start.all_groups, **limits)  # type: ignore[arg-type]
    return TrainedModel("limited", model, data, factory=LimitedNetwork, limits=found)


def check_limits_obeyed(method: Method, folder: Path) -> None:
    """Compress a network with all limits at once. Raises AssertionError unless the file obeys them and meets the target."""
    start = limited_start(**LIMITS)
    recipe = TrainOptions(epochs=1, batch_size=32, learning_rate=0.01)
    stage = open_stage(folder, "test", {}, recipe=recipe, log=lambda line: None)
    metrics = compress(method, start, Target(TARGET), stage, FineTuning(recipe), latency=False)
    network = load_network(folder / metrics["file"], start.factory)
    widths = {name: width(network.get_submodule(name), "out") for name in WIDTHS}
    assert all(widths[name] in ALLOWED[name] for name in WIDTHS), widths
    assert widths != WIDTHS
    kept = metrics["compressed"]["macs"] / metrics["baseline"]["macs"]
    assert 0.98 * TARGET <= kept <= TARGET, kept
