"""What the original README promises, listed in ``original_readme.txt``, holds here; early checks of what its commands need."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.data import load_dataset
from common.errors import UserError
from common.models import create_model
from common.testing.data_files import write_cifar_python
from common.testing.original_readme import (
    check_commands,
    check_files,
    check_options,
    check_rows,
    copy_package,
    numbers_in,
    of_kind,
    read_promises,
)
from model_preserving_id.compose import alds_prune
from model_preserving_id.paper.published import MISSING_CLASS, PUBLISHED
from model_preserving_id.portable import save_dict, to_dict
from model_preserving_id.settings import train_main

PROMISES = read_promises(__file__)
CONFIG = (8, 8, "pool", 8, 8, "pool", 8, 8, 8, "pool", 16, 16, 16, "pool", 16, 16, 16)  # VGG-16, narrower


def test_original_readme_files_exist():
    check_files(PROMISES, "model_preserving_id")


def test_original_readme_names_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    for promise in of_kind(PROMISES, "name"):
        script, name = promise.text.split(".")
        monkeypatch.delitem(sys.modules, script, raising=False)
        assert callable(getattr(importlib.import_module(script), name))


def test_original_readme_options_are_accepted():
    check_options(PROMISES, "model_preserving_id")


def test_original_readme_rows_are_published():
    check_rows(PROMISES, [set(numbers_in(row)) for row in (*MISSING_CLASS, *PUBLISHED)])


def test_original_readme_commands_run(tmp_path, monkeypatch, capsys):
    """VGG-16 is narrow, and the lines and options that follow the README's name the data and take fewer images."""
    folder = copy_package("model_preserving_id", tmp_path)
    write_cifar_python(tmp_path / "data" / "cifar10", count=1000, test=30)
    monkeypatch.setenv("COMPRESSION_PAPERS_DATA", str(tmp_path / "data"))
    data = load_dataset("cifar10")
    normalize = {"mean": list(data.mean), "std": list(data.std)}
    for name, config in (("dense.pt", CONFIG), ("id.pt", tuple(4 * w if isinstance(w, int) else w for w in CONFIG))):
        torch.manual_seed(0)
        model = create_model("vgg16", config=config, hidden=16 * len(name))
        save_dict(folder / name, to_dict(model, normalize=normalize, dataset="cifar10"))
    smaller = 'args.dataset, args.load_fname, args.prune_batch_size, args.k = "cifar10", "dense.pt", 64, 0.6'
    fill = {
        "iditer(args, <savedir>)": f'{smaller}\niditer(args, "savedir")',
        "<ID pruned model>": '"id.pt"',
        "<savename>": '"savename"',
        "<epochs>": "1",
        "<batch size>": "500",
        "<lr>": "0.01",
        "<momentum>": "0.9",
        "<weight decay>": "1e-4",
        "<checkpoint path/checkpoint.pth.tar>": "none/checkpoint.pth.tar",
        "<compressed model path>": "savedir/modelIDiter_final.pt",
        "<logging output path>": "logs",
        "<tensorboard logging path>": "tensorboard",
    }
    small = {"train.py": "--dataset cifar10 --device cpu"}
    check_commands(PROMISES, folder, small, fill)
    again = next(promise.text for promise in PROMISES if promise.text.startswith("python train.py"))
    for placeholder, value in fill.items():
        again = again.replace(placeholder, value)
    monkeypatch.chdir(folder)
    assert train_main([*shlex.split(again.replace("\\\n", " "))[2:], *small["train.py"].split()]) == 0
    assert "logs is finished: logs/metrics.json" in capsys.readouterr().out


def test_original_readme_line_without_weights_gives_one_line(tmp_path):
    """torchvision's weights are not there: no traceback, and the line names what to download."""
    folder = copy_package("model_preserving_id", tmp_path)
    lines = 'from main import iditer, create_args\nargs = create_args()\nargs.arch = "VGG16"\niditer(args, "savedir")\n'
    environment = {**os.environ, "TORCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", lines], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "download https://download.pytorch.org/models/vgg16-397923af.pth to that folder" in done.stderr


def test_missing_tensorboard_raises_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("model_preserving_id.settings.find_spec", lambda name: None)
    assert train_main(["--pretrained", "x.pt", "--tensorboard_dir", str(tmp_path / "tb")]) == 2
    assert capsys.readouterr().err == (
        "error: --tensorboard_dir: the package tensorboard is not installed; pip install tensorboard\n"
    )
    assert not list(tmp_path.iterdir())


def test_unwritable_tensorboard_folder_raises_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert train_main(["--pretrained", str(tmp_path / "x.pt"), "--tensorboard_dir", str(tmp_path / "file")]) == 2
    assert "file, not a folder" in capsys.readouterr().err


def test_network_without_dictionary_raises_before_factorization(tmp_path, monkeypatch):
    """The .tp file is written last, and only for registered networks."""
    monkeypatch.setattr("model_preserving_id.compose.compress", None)  # nothing is computed
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    with pytest.raises(UserError, match="not in the registry"):
        alds_prune(network, dataset="digits", folder=tmp_path, device="cpu")
