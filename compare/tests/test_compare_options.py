"""Every command honors all of its options."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from compare_helpers import write_results
from torch import nn

from common import measure
from common.atomic import write_json
from common.checkpoint import save_model
from common.models import ARCHITECTURES, create_model
from common.runs import read_json
from common.testing import check_options_honored, command_names, write_image_folder
from common.testing.fixed_latency import fixed_latency, take_macs_for_latency
from compare import settings, sweep
from compare.paper import deployment, latency_target

MODEL = "test_compare_options:tiny"
JOB = "{data} --methods l1_norm --target-macs 0.5 --seeds 0 --finetune-epochs 0 --jobs 1 --no-latency"
COMMANDS = {
    "Compare": (
        settings.main,
        f"--arch lenet5 {JOB} --baseline-epochs 0 --out {{out}}/trained",
        f"--arch lenet5 --weights {{root}}/lenet5.pth {JOB} --out {{out}}/read --no-report",
        f"--model {MODEL} {JOB} --baseline-epochs 0 --out {{out}}/own --no-report",
        f"--arch lenet5 --weights {{root}}/lenet5.pth {JOB} --target-macs --target-latency 0.6 --latency-batch-size 4 --out {{out}}/read",
    ),
    "LatencyAgainstMacs": (
        latency_target.main,
        "--checkpoint {root}/lenet5.safetensors {data} --method l1_norm --target-latency 0.6 --name a --results {out} --out {out}/targets",
        "--arch lenet5 --weights {root}/lenet5.pth {data} --method l1_norm --name b --results {out} --out {out}/targets-2",
        f"--model {MODEL} --weights {{root}}/tiny.pth {{data}} --method l1_norm --name c --results {{out}} --out {{out}}/targets-3",
    ),
    "Deployment": (
        deployment.main,
        "--network a {root}/lenet5.safetensors {data} --name a --results {out} --seconds 0.1 --threads 1",
    ),
    "Sweep": (sweep.main, "--values 1 --out {out}/sweep -- python x.py {{value}} {{out}}"),
}


def tiny(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 40, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(40, 50, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1250, num_classes),
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{placeholder in the commands above: folder or options}: trained weights, a dozen images, a comparison."""
    root = tmp_path_factory.mktemp("files")
    images = write_image_folder(root / "images", classes=2, train=6, test=2)
    write_results(root / "results", seeds=(0,))
    network = create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    torch.save(network.state_dict(), root / "lenet5.pth")
    torch.save(tiny(2).state_dict(), root / "tiny.pth")
    save_model(root / "lenet5.safetensors", network)
    (root / "out").mkdir()
    return {"root": root, "data": f"--dataset folder:{images}", "out": root / "out"}


def run_trial(out: Path) -> bool:
    """Write what the trial of the value 1 writes."""
    settings = read_json(out / "sweep.json")
    record = sweep.begin_trial(settings, "1")
    write_json(out / "value-1" / "metrics.json", {"compressed": {"top1": 90.0}})
    return sweep.end_trial(settings, "1", record, 0) == 90.0


@pytest.mark.parametrize("name", COMMANDS)
def test_command_honors_its_options(name, places, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, MODEL, None)  # removed after the test
    nni, out = mock.MagicMock(), places["out"] / "sweep"
    nni.Experiment.return_value.run.side_effect = lambda port: run_trial(out)
    for module in ("nni", "nni.experiment"):
        monkeypatch.setitem(sys.modules, module, nni)
    take_macs_for_latency(monkeypatch)
    monkeypatch.setattr(measure, "measure_latency", fixed_latency)
    main, *runs = COMMANDS[name]
    with mock.patch.dict(os.environ):
        found = check_options_honored(main, [run.format(**places).split() for run in runs])
    assert found == name


def test_command_list_is_complete():
    assert command_names("compare") == COMMANDS.keys()
