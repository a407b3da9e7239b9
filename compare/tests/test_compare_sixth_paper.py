"""A sixth paper, built from CONTRIBUTING.md: ``compare`` finds it, and its own script computes the same network."""

import json
import re
from pathlib import Path

import pytest
import torch
from compare_helpers import bundle, tiny

from common.checkpoint import load_model, save_model
from common.models import ARCHITECTURES, Architecture
from compare.settings import main as compare_main

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def sixth(tmp_path, monkeypatch):
    """The package of CONTRIBUTING.md, as if it were installed."""
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index("## Adding a paper") :]
    method, command, script = re.findall(r"```python\n(.*?)```", text, re.S)
    (points,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    home = tmp_path / "site"
    (home / "sixth").mkdir(parents=True)
    (home / "sixth" / "__init__.py").write_text("")
    (home / "sixth" / "method.py").write_text(method)
    (home / "sixth" / "settings.py").write_text(command)
    (home / "prune.py").write_text(script)
    about = home / "sixth-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sixth\nVersion: 1.0\n")
    group, point = re.search(r'"(.*?)"', points)[1], points.strip().splitlines()[-1].replace('"', "")
    (about / "entry_points.txt").write_text(f"[{group}]\n{point}\n")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(lambda num_classes=4: tiny(), (3, 8, 8)))
    for module in ("common.trained_model", "compare.command"):
        monkeypatch.setattr(f"{module}.load_data", lambda *settings: bundle())
    torch.manual_seed(0)
    model = tiny()
    model.architecture = {"arch": "tiny", "args": {"num_classes": 4}}
    save_model(tmp_path / "dense.safetensors", model)
    return tmp_path


def test_compare_and_own_script_compute_same_network(sixth, capsys):
    from sixth.settings import main

    dense = str(sixth / "dense.safetensors")
    argv = ["--methods", "sixth", "--target-macs", "0.5", "--target-bytes", "--finetune-epochs", "0", "--seeds", "0"]
    out = ["--checkpoint", dense, "--device", "cpu", "--no-latency", "--jobs", "1", "--out", str(sixth / "results")]
    assert compare_main([*argv, *out]) == 0
    assert "variance" in capsys.readouterr().out
    assert main(["--checkpoint", dense, "--device", "cpu", "--out", str(sixth / "run")]) == 0
    assert "top-1" in capsys.readouterr().out
    result, run = sixth / "results" / "seed0" / "sixth-macs0.5", sixth / "run"
    one, two = (load_model(folder / "model.safetensors", tiny).state_dict() for folder in (result, run))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    metrics = [json.loads((folder / "metrics.json").read_text())["compressed"] for folder in (result, run)]
    assert all(metrics[0][key] == metrics[1][key] for key in ("top1", "loss", "macs", "bytes", "agreement"))
    assert 0.49 <= json.loads((result / "metrics.json").read_text())["kept"]["macs"] <= 0.5
    assert json.loads((result / "metrics.json").read_text())["note"] == "an example"
    written = (run / "model.safetensors").stat().st_mtime_ns
    assert main(["--checkpoint", dense, "--device", "cpu", "--out", str(run)]) == 0
    assert (run / "model.safetensors").stat().st_mtime_ns == written


def test_sixth_paper_rejects_invalid_input_in_one_line(sixth, capsys):
    from sixth.settings import main

    assert main(["--checkpoint", str(sixth / "none.safetensors")]) == 2
    assert "none.safetensors: no such file" in capsys.readouterr().err
    assert main(["--target-macs", "1.5"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
