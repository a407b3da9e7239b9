"""Run folders finished by commit b50e727 can still be read, measured, collected, skipped and fine-tuned.

The runs in ``data/finished_run`` come from MAIN, from the original README's function ``iditer`` (see ``original_call``) and from
TRAIN. ``dense.safetensors`` is a ResNet-20 for digits pruned to 3 % of its MACs. Files ``modelIDiter_cnt*.pt`` are not included.
"""

import csv
from pathlib import Path

import pytest
import torch

from common import pipeline
from common.checkpoint import load_model
from common.cost import count_cost
from common.runs import read_json
from common.testing.finished import check_recorded_network, check_run_reopens, copy_finished_run, file_states
from model_preserving_id import method
from model_preserving_id.original_api import create_args, iditer
from model_preserving_id.paper import tables
from model_preserving_id.portable import as_network
from model_preserving_id.settings import prune_main, train_main

MAIN = (  # after python main.py
    "--checkpoint dense.safetensors --dataset digits --method budget --target-macs 0.4 --prune-batch-size 200"
    " --reconstruction-images 100 --device cpu --out budget"
)
TRAIN = (  # after python train.py
    "--arch resnet20 --pretrained budget/model.safetensors --original dense.safetensors --dataset digits --epochs 1"
    " --batch-size 64 --lr 0.01 --device cpu --log_dir fine-tune"
)
MACS = {"budget": 479_342, "iditer": 602_606, "fine-tune": 479_342}
DENSE_MACS = 1_214_318


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Copy the folders into the current folder, as during the original runs."""
    monkeypatch.chdir(tmp_path)  # and back afterwards
    return copy_finished_run(__file__, tmp_path)


def original_call(log=print) -> torch.nn.Module:
    """Repeat the call that created ``iditer``."""
    args = create_args()
    args.arch, args.dataset, args.load_fname, args.device = "resnet20", "digits", "dense.safetensors", "cpu"
    args.k, args.prune_batch_size, args.reconstruction_images, args.log_interval = 0.6, 200, 100, 3
    args.update_every = 0.02  # the default at that time
    return iditer(args, "iditer", 0.5, log=log)


@pytest.mark.parametrize("folder", MACS)
def test_network_has_recorded_macs_and_accuracy(folder):
    check_recorded_network(folder, MACS[folder], "dense.safetensors", DENSE_MACS)


def test_original_format_file_has_same_tensors():
    portable, model = as_network("iditer/modelIDiter_final.pt"), load_model("iditer/model.safetensors")
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in portable.state_dict().items())
    assert count_cost(portable, (3, 32, 32)).macs == MACS["iditer"]
    assert portable.checkpoint_header["normalize"] == model.checkpoint_header["normalize"]


def test_log_has_row_per_step():
    with open("iditer/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == read_json("iditer/metrics.json")["picks"] == 11
    assert float(rows[-1]["macs_left"]) == pytest.approx(MACS["iditer"] / DENSE_MACS, abs=1e-4)


@pytest.mark.parametrize("folder", MACS)
def test_folder_opens_as_same_finished_run(folder):
    check_run_reopens(folder, "model_preserving_id")


def test_same_commands_skip_finished_runs_and_others_raise(place, monkeypatch, capsys):
    monkeypatch.setattr(method, "calibration_images", None)  # nothing is pruned
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is trained
    before = file_states(place, "modelIDiter_final.pt")
    assert prune_main(MAIN.split()) == 0
    assert train_main(TRAIN.split()) == 0
    lines = []
    assert count_cost(original_call(lines.append), (3, 32, 32)).macs == MACS["iditer"]
    for folder, out in (("budget", capsys.readouterr().out), ("iditer", "\n".join(lines))):
        assert f"{folder} is finished" in out
    assert file_states(place, "modelIDiter_final.pt") == before
    assert prune_main([*MAIN.split(), "--target-macs", "0.3"]) == 2
    assert "--target-macs 0.4" in capsys.readouterr().err
    assert train_main([*TRAIN.split(), "--lr", "0.02"]) == 2
    assert "--lr 0.01" in capsys.readouterr().err


def test_training_resumes_from_final_checkpoint():
    words = [*TRAIN.split(), "--log_dir", "again", "--resume", "fine-tune/checkpoint.pth.tar"]
    assert train_main(words) == 0
    before, after = (load_model(f"{folder}/model.safetensors").state_dict() for folder in ("fine-tune", "again"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())  # its only epoch was completed
    assert read_json("again/metrics.json")["epochs"] == 1


def test_run_becomes_table_row(place, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", place / "results")
    assert tables.add_result(place / "budget", tables.RESULTS).name == "run-budget.json"
    (row,) = tables.runs_table().splitlines()[2:]
    cells = [
        "resnet20",
        "extended",
        "`--method budget --score output-change --selection outputs --compensation weights`",
    ]
    cells += ["200", "94.40", "54.40", "55.80", "39.47", "38.54"]
    assert row.strip("| ").split(" | ")[:9] == cells
