"""Run folders that commit b50e727 finished are still read, measured, kept, skipped, and trained on.

They were made in ``data/finished_run`` by MAIN, by the function ``iditer`` of the original README (see ``seed_call``), and by
TRAIN; ``dense.safetensors`` is a ResNet-20 on digits cut to 3 % of its MACs. The files ``modelIDiter_cnt*.pt`` were left out.
"""

import csv
from pathlib import Path

import pytest
import torch

from common import pipeline
from common.checkpoint import load_model
from common.cost import count_cost
from common.runs import read_json
from common.testing.finished import check_network, check_opens, finished_copy, written
from model_preserving_id import method
from model_preserving_id.paper import tables
from model_preserving_id.portable import as_network
from model_preserving_id.seed_api import create_args, iditer
from model_preserving_id.settings import prune_main, train_main

MAIN = (  # after python main.py
    "--checkpoint dense.safetensors --dataset digits --method budget --target-macs 0.4 --prune-batch-size 200"
    " --solve-batch-size 100 --device cpu --out budget"
)
TRAIN = (  # after python train.py
    "--arch resnet20 --pretrained budget/model.safetensors --original dense.safetensors --dataset digits --epochs 1"
    " --batch-size 64 --lr 0.01 --device cpu --log_dir fine-tune"
)
MACS = {"budget": 479_342, "iditer": 602_606, "fine-tune": 479_342}
DENSE_MACS = 1_214_318


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A copy of the folders, below the present folder as they were when they were made."""
    monkeypatch.chdir(tmp_path)  # and back afterwards
    return finished_copy(__file__, tmp_path)


def seed_call(log=print) -> torch.nn.Module:
    """The call that made ``iditer``."""
    args = create_args()
    args.arch, args.dataset, args.load_fname, args.device = "resnet20", "digits", "dense.safetensors", "cpu"
    args.k, args.prune_batch_size, args.solve_batch_size, args.log_interval = 0.6, 200, 100, 3
    return iditer(args, "iditer", 0.5, log=log)


@pytest.mark.parametrize("folder", MACS)
def test_the_network_has_the_recorded_macs_and_accuracy(folder):
    check_network(folder, MACS[folder], "dense.safetensors", DENSE_MACS)


def test_the_file_of_the_original_s_name_has_the_same_tensors():
    portable, model = as_network("iditer/modelIDiter_final.pt"), load_model("iditer/model.safetensors")
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in portable.state_dict().items())
    assert count_cost(portable, (3, 32, 32)).macs == MACS["iditer"]
    assert portable.checkpoint_header["normalize"] == model.checkpoint_header["normalize"]


def test_the_log_tells_every_pick():
    with open("iditer/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == read_json("iditer/metrics.json")["picks"] == 11
    assert float(rows[-1]["macs_left"]) == pytest.approx(MACS["iditer"] / DENSE_MACS, abs=1e-4)


@pytest.mark.parametrize("folder", MACS)
def test_the_folder_opens_as_the_same_finished_run(folder):
    check_opens(folder, "model_preserving_id")


def test_the_same_commands_skip_them_and_others_are_refused(place, monkeypatch, capsys):
    monkeypatch.setattr(method, "pruning_pictures", None)  # nothing is pruned
    monkeypatch.setattr(pipeline, "fit", None)  # nothing is trained
    before = written(place, "modelIDiter_final.pt")
    assert prune_main(MAIN.split()) == 0
    assert train_main(TRAIN.split()) == 0
    said = []
    assert count_cost(seed_call(said.append), (3, 32, 32)).macs == MACS["iditer"]
    for folder, out in (("budget", capsys.readouterr().out), ("iditer", "\n".join(said))):
        assert f"{folder} is finished" in out
    assert written(place, "modelIDiter_final.pt") == before
    assert prune_main([*MAIN.split(), "--target-macs", "0.3"]) == 2
    assert "--target-macs 0.4" in capsys.readouterr().err
    assert train_main([*TRAIN.split(), "--lr", "0.02"]) == 2
    assert "--lr 0.01" in capsys.readouterr().err


def test_training_resumes_from_the_checkpoint_where_it_ended():
    words = [*TRAIN.split(), "--log_dir", "again", "--resume", "fine-tune/checkpoint.pth.tar"]
    assert train_main(words) == 0
    before, after = (load_model(f"{folder}/model.safetensors").state_dict() for folder in ("fine-tune", "again"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())  # its one epoch was done
    assert read_json("again/metrics.json")["epochs"] == 1


def test_it_becomes_a_row_of_the_table(place, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", place / "results")
    assert tables.add_result(place / "budget", tables.RESULTS).name == "run-budget.json"
    (row,) = tables.runs_table().splitlines()[2:]
    cells = ["resnet20", "`--method budget --compensation weights`", "200", "94.40", "54.40", "55.80", "39.47", "38.54"]
    assert row.strip("| ").split(" | ")[:8] == cells
