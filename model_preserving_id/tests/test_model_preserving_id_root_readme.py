"""The root README's section "Your own network" runs as printed, and so do the examples: extended ID is the default method."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from common.measure import measure_latency
from common.testing import write_photos

ROOT = Path(__file__).resolve().parents[2]


def python_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split("\n## Your own network\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_python_of_root_readme_runs_as_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    """The only change is the size of the images, a quarter, which makes it four times as fast."""
    monkeypatch.setattr("common.pipeline.measure_latency", measure_latency)  # as without conftest.py
    (first,) = python_blocks()
    write_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(first.replace("image_size=64", "image_size=32").replace("64, 64)", "32, 32)"), scope)
    dense, small = (scope["report"].metrics[name] for name in ("baseline", "compressed"))
    assert 0.49 <= small["macs"] / dense["macs"] <= 0.5 and scope["images"].shape == (8, 3, 32, 32)
    assert set(small["latency_ms"]) == {"1", "64"}
    names = {"dense.pth", "photos", "small.onnx", "small.safetensors", "small.safetensors.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "model-preserving ID (extended), 50 % of the MACs" in capsys.readouterr().out


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports an example by name."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("compress_while_training", None)


def test_training_loop_continues_with_smaller_network(example, capsys) -> None:
    model = example("compress_while_training").main(epochs=4, compress_at=2, latency=False)
    out = capsys.readouterr().out
    assert model[0].out_channels < 32 and model[3].out_channels < 64 and "50 % of the MACs" in out
    before, after = (float(value) for value in re.findall(r"epoch [24]: top-1 (\d+\.\d+) %", out))
    assert after > before > 80


def test_lightning_callback_compresses_during_training(example) -> None:
    pytest.importorskip("lightning")
    module, trainer = example("lightning_callback").main(epochs=3, compress_at=1, latency=False)
    assert module.model[0].out_channels < 32
    (optimizer,) = trainer.optimizers
    assert optimizer.param_groups[0]["params"] == list(module.model.parameters())
    assert all(
        int(state["step"]) == 3 * 29 for state in optimizer.state.values()
    )  # the moments of the first epoch are kept
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3
