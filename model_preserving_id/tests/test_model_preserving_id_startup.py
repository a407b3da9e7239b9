"""``-h``, ``--version`` and an unknown option of every command load no heavy library; settings of commands."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.settings import flatten, parse
from common.testing.startup import find_heavy_starts
from model_preserving_id import settings
from model_preserving_id.command import recorded_options

HERE = Path(__file__).parents[1]
EXPERIMENTS = ("conv3d", "missing_class", "ratios", "wide")
COMMANDS = [
    ["main.py"],
    ["train.py"],
    ["-m", "model_preserving_id"],
    ["-m", "model_preserving_id.paper.diagrams"],
    ["-m", "model_preserving_id.paper.tables"],
    *(["-m", f"model_preserving_id.paper.experiments.{name}"] for name in EXPERIMENTS),
]


def test_commands_load_no_heavy_library():
    assert find_heavy_starts(COMMANDS, HERE) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prune_main", "--k 1.5"),
        ("prune_main", "--method eps"),
        ("prune_main", "--update-every 1"),
        ("train_main", "--pretrained x.pt --momentum 2"),
        ("train_main", "--pretrained x.pt --distill-weight 1"),
    ],
)
def test_invalid_values_load_no_torch(name, words):
    code = f"import sys; from model_preserving_id.settings import {name} as main; status = main({words.split()})"
    code += "; sys.exit(status if 'torch' not in sys.modules else 3)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("file", sorted((HERE / "results").glob("run-*.json")), ids=lambda file: file.stem)
def test_recorded_commands_give_recorded_options(file):
    record = json.loads(file.read_text())
    _, script, *words = shlex.split(record["command"])
    recorded = {
        name: value for name, value in record["options"].items() if name not in ("weights_digest", "mean", "std")
    }
    found = recorded_options(parse(settings.PruneChannels, words))
    since = {name: value for name, value in found.items() if name not in recorded}
    assert not any(since.values()), "options since then are not given"
    assert script == "main.py" and found == recorded | since


def test_original_train_command_is_parsed():
    words = """--arch vgg16 --epochs 3 --batch-size 7 --lr 0.2 --momentum 0.8 --weight-decay 1e-3 --prune-batch-size 5000
        --print-freq 5000 --workers 32 --resume here/checkpoint.pth.tar --evalute --pretrained net.pt --log_dir logs
        --tensorboard_dir board --dist-url tcp://127.0.0.1:40781 --dist-backend nccl --seed 2 --multiprocessing-distributed
        --world-size 1 --rank 0"""
    found = flatten(parse(settings.FineTuneCompressed, words.split()))
    assert found["evaluate"] and found["multiprocessing_distributed"] and found["lr"] == 0.2 and found["seed"] == 2
    assert (found["weight_decay"], found["log_dir"], found["tensorboard_dir"]) == (1e-3, "logs", "board")
