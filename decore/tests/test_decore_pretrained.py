"""``best.pth.tar``, the original repository's weights of VGG-16: written by a command, and used where present."""

import pytest
import torch

from common.checkpoint import read_tensors, save_model
from common.models import create_model
from common.runs import read_json
from common.testing import single_error_line, write_image_folder
from decore.settings import main_investigate, main_pretrained, main_prune


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to a folder with tiny images and a trained VGG-16."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images", train=4, test=2)
    torch.manual_seed(0)
    save_model(tmp_path / "vgg16.safetensors", create_model("vgg16", num_classes=2))
    return tmp_path


def test_pretrained_weights_are_written_and_used(folder):
    assert main_pretrained(["--checkpoint", "vgg16.safetensors"]) == 0
    tensors = read_tensors("best.pth.tar")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in read_tensors("vgg16.safetensors").items())
    content = torch.load("best.pth.tar", weights_only=True)
    assert content["arch"] == "vgg16" and content["state_dict"].keys() == tensors.keys()
    words = "--dataset folder:images --epochs 0 --batch-size 4 --no-latency --device cpu".split()
    assert main_prune(words) == 0
    digests = {read_json("runs/vgg16-50/config.json")["options"]["weights_digest"]}
    assert main_prune([*words, "--weights", "best.pth.tar", "--saved-dir", "again"]) == 0
    assert digests == {read_json("again/vgg16-50/config.json")["options"]["weights_digest"]}


@pytest.mark.parametrize("main", [main_prune, main_investigate])
def test_missing_weights_name_the_command_that_writes_them(main, folder, capsys):
    single_error_line(main(["--dataset", "folder:images"]), capsys.readouterr().err, "--weights decore.pretrained")
    assert main(["--dataset", "folder:images", "--arch", "resnet20"]) == 2
    assert "--weights" in capsys.readouterr().err


def test_weights_of_another_network_are_not_written(folder, capsys):
    save_model(folder / "small.safetensors", create_model("resnet20"))
    status = main_pretrained(["--checkpoint", "small.safetensors"])
    single_error_line(status, capsys.readouterr().err, "resnet20 vgg16")
    assert not (folder / "best.pth.tar").exists()
