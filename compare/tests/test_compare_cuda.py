"""Results computed on a GPU; `pytest -m cuda`."""

import json

import pytest
import torch

from common.methods import installed_methods
from common.runs import COMMIT
from compare.settings import main

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)
NAMES = ["redundancy_graph", "model_preserving_id", "l1_norm"]


def test_14_three_methods_finish_on_cuda(tmp_path, monkeypatch):
    monkeypatch.setenv(COMMIT, "0123abc")
    assert set(NAMES) <= set(installed_methods())
    argv = ["--dataset", "digits", "--arch", "resnet20", "--device", DEVICE.type, "--seeds", "0", "--jobs", "1"]
    argv += ["--baseline-epochs", "1", "--finetune-epochs", "1", "--target-macs", "0.5", "--target-bytes"]
    argv += ["--methods", *NAMES, "--no-latency", "--no-report", "--out", str(tmp_path)]
    assert main(argv) == 0
    results = [json.loads(file.read_text()) for file in tmp_path.glob("**/metrics.json")]
    assert len(results) >= len(NAMES)
    for result in results:
        assert result["device"].startswith(DEVICE.type) and result["commit"]
        assert "latency_ms" not in json.dumps(result)
