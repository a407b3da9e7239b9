"""Networks of torchvision and timm by name: weights from the library's cache, its preprocessing, and its classes."""

import json
import re
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from test_common_preprocessing import photo

from common import evaluate, export, latency, show, train
from common.channels.__main__ import main as show_channels
from common.checkpoint import load_model, save_model
from common.compress_command import loading_code
from common.data import load_dataset
from common.errors import UserError
from common.factory import import_factory, model_from_factory
from common.library_networks import LibraryNetwork, _distinct, imagenet_ids
from common.trained_model import with_classes_of, with_preprocessing_of

NAME = "torchvision.models:shufflenet_v2_x0_5"  # 5.5 MB
FILE = "shufflenetv2_x0.5-f707e7126e.pth"


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """Return a cache of torch.hub with weights of a small network, which are random."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    torch.save(import_factory(NAME)().state_dict(), folder / "checkpoints" / FILE)
    return folder


@pytest.fixture(autouse=True)
def library_cache(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(hub))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def offline(monkeypatch) -> list[str]:
    """Fail all downloads; return the list of their addresses."""
    asked: list[str] = []

    def fail(url, *_, **__):
        asked.append(url)
        raise OSError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return asked


def write_photos(root: Path, names) -> str:
    for part in ("train", "test"):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for number in range(2):
                photo(90 + number, 70).save(root / part / name / f"{number}.png")
    return f"folder:{root}"


def error_line(capsys) -> str:
    """Return the only line of an error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def library(name: str, num_classes: int | None = None) -> LibraryNetwork:
    found = import_factory(name, num_classes)
    assert isinstance(found, LibraryNetwork)
    return found


@pytest.mark.parametrize("weights", ["pretrained", "DEFAULT", "IMAGENET1K_V1"])
def test_weights_are_read_from_cache_of_library(hub, offline, weights):
    model = model_from_factory(import_factory(NAME, 7), weights)
    stored = torch.load(hub / "checkpoints" / FILE)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items()) and not offline
    header = model.checkpoint_header
    assert header["preprocessing"] == dict(
        resize=256, crop=224, interpolation="bilinear", antialias=True, fit="shorter"
    )
    assert header["normalize"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert header["classes"][:2] == ["tench", "goldfish"] and header["class_ids"][:2] == ["n01440764", "n01443537"]


def test_classes_of_one_name_are_distinguished():
    assert _distinct(["crane", "dog", "crane"], ["n1", "n2", "n3"]) == ["crane (n1)", "dog", "crane (n3)"]
    assert len(set(library(NAME).weights()["pretrained"].classes)) == 1000
    assert len(set(imagenet_ids())) == 1000 and all(re.fullmatch(r"n\d{8}", one) for one in imagenet_ids())


def test_missing_weights_name_file_and_place(hub, offline):
    with pytest.raises(UserError) as caught:
        library("torchvision.models:mnasnet0_5").load("pretrained")
    url = "https://download.pytorch.org/models/mnasnet0.5_top1_67.823-3ffadce67e.pth"
    assert offline == [url] and "\n" not in str(caught.value)
    assert f"get {url} and put it at {hub}/checkpoints/mnasnet0.5_top1_67.823-3ffadce67e.pth" in str(caught.value)


def test_missing_weights_cost_one_line(offline, tmp_path, capsys):
    words = ["--model", "torchvision.models:mnasnet0_5", "--dataset", write_photos(tmp_path / "p", imagenet_ids()[:2])]
    assert evaluate.main([*words, "--weights", "pretrained"]) == 2
    assert "no network here" in error_line(capsys)
    assert evaluate.main([*words, "--weights", "IMAGENET1K_V9"]) == 2
    assert "weights of torchvision.models:mnasnet0_5 by name: pretrained, DEFAULT, IMAGENET1K_V1" in error_line(capsys)


def test_file_of_library_is_recognized_by_its_name(hub, tmp_path):
    shutil.copy(hub / "checkpoints" / FILE, tmp_path / FILE)
    model = library(NAME, 3).load(tmp_path / FILE)
    assert len(model.checkpoint_header["classes"]) == 1000
    shutil.copy(hub / "checkpoints" / FILE, tmp_path / "other.pth")  # fits the library's classes, not the data's
    assert len(library(NAME, 3).load(tmp_path / "other.pth").checkpoint_header["classes"]) == 1000
    same = library(NAME, 1000).load(tmp_path / "other.pth").checkpoint_header  # whose classes may be others
    assert "classes" not in same and same["preprocessing"]["crop"] == 224


def test_weights_of_own_classes_have_no_header(tmp_path):
    torch.save(library(NAME, 3)().state_dict(), tmp_path / "mine.pth")
    assert not hasattr(library(NAME, 3).load(tmp_path / "mine.pth"), "checkpoint_header")


def test_checkpoint_of_library_network_is_loaded_with_its_name(tmp_path):
    model = library(NAME, 3)()
    save_model(tmp_path / "m.safetensors", model, classes=["a", "b", "c"], factory=library(NAME, 3))
    assert library(NAME, 5).load(tmp_path / "m.safetensors").checkpoint_header["classes"] == ["a", "b", "c"]


def test_other_network_under_name_of_library_raises(hub, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(UserError, match="not the weights ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1: .*Missing key"):
        library(NAME).load(tmp_path / FILE)


def test_code_in_file_of_library_is_not_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harmed"), "w")

    torch.save({"conv1.0.weight": Harm()}, tmp_path / FILE)
    with pytest.raises(UserError):
        library(NAME).load(tmp_path / FILE)
    assert not (tmp_path / "harmed").exists()


def test_folders_are_matched_by_ids_and_by_names(tmp_path):
    model = library(NAME).load("pretrained")
    ids = imagenet_ids()
    by_id = load_dataset(write_photos(tmp_path / "ids", [ids[517], ids[1], ids[7]]))
    found = with_classes_of(model, with_preprocessing_of(model, by_id), "m")
    assert found.input_shape == (3, 224, 224) and found.num_classes == 1000
    assert [found.classes[label] for label in found.test.labels[::2]] == ["goldfish", "cock", "crane"]
    again = with_preprocessing_of(load_with_size(model, tmp_path), found)
    assert again.input_shape == (3, 160, 160) and torch.equal(again.test.labels, found.test.labels)
    assert again.classes == found.classes and again.class_ids == ids
    by_name = load_dataset(write_photos(tmp_path / "names", ["goldfish", "cock"]))
    assert with_classes_of(model, by_name, "m").test.labels.tolist() == [7, 7, 1, 1]
    with pytest.raises(UserError, match="2 of the 2 classes .* are not classes of the network: 'cat', 'dog'"):
        with_classes_of(model, load_dataset(write_photos(tmp_path / "own", ["cat", "dog"])), "m")


def load_with_size(model, folder: Path):
    how = {**model.checkpoint_header["preprocessing"], "crop": 160}
    save_model(folder / "m.safetensors", model, preprocessing=how)
    return load_model(folder / "m.safetensors", library(NAME))


def test_commands_use_weights_and_preprocessing_by_name(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    words = ["--dataset", write_photos(tmp_path / "p", imagenet_ids()[:3]), "--workers", "0"]
    given = ["--model", NAME, "--weights", "pretrained", *words, "--no-latency"]
    assert evaluate.main([*given, "--json", "a.json"]) == 0
    text = capsys.readouterr().err.splitlines()
    assert text[0] == "images: 224 x 224, cropped after resizing the shorter side to 256 (bilinear)"
    assert text[1].endswith("evaluate 6 images")
    assert evaluate.main([*given, "--image-size", "64", "--resize", "70", "--json", "b.json"]) == 0
    sizes = [json.loads(Path(name).read_text())["macs"] for name in ("a.json", "b.json")]
    assert sizes[0] > 9 * sizes[1]
    model = library(NAME).load("pretrained")
    save_model("m.safetensors", model, factory=library(NAME))  # the library's facts are recorded
    assert (
        evaluate.main(["--checkpoint", "m.safetensors", "--model", NAME, *words, "--no-latency", "--json", "c.json"])
        == 0
    )
    first, third = (json.loads(Path(name).read_text()) for name in ("a.json", "c.json"))
    assert {**first, "bytes": 0} == {**third, "bytes": 0}
    capsys.readouterr()
    assert show.main(["m.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "224 x 224, cropped after resizing the shorter side to 256" in shown and "tench; goldfish; " in shown
    assert export.main(["--checkpoint", "m.safetensors", "--model", NAME, "--out", "m.onnx"]) == 0
    assert "33 random examples, 3 x 224 x 224" in capsys.readouterr().out


def test_input_shape_is_that_of_library(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "common.channels.channel_groups", lambda model, example: seen.append(example.shape) or _Groups()
    )
    assert show_channels(["--model", "torchvision.models:shufflenet_v2_x0_5"]) == 0 and seen == [(1, 3, 224, 224)]
    monkeypatch.undo()
    assert latency.main(["--model", "test_common_preprocessing:photo"]) == 2
    assert "the network does not record its input shape" in error_line(capsys)


class _Groups(list):
    excluded = MappingProxyType({})


def test_training_with_library_weights_gives_new_classes_new_layers(hub, tmp_path):
    data = write_photos(tmp_path / "p", ["cat", "dog"])
    words = [
        "--model",
        NAME,
        "--weights",
        "pretrained",
        "--dataset",
        data,
        "--epochs",
        "0",
        "--no-latency",
        "--workers",
        "0",
    ]
    assert train.main([*words, "--image-size", "64", "--out", "run"]) == 0
    model = load_model("run/model.safetensors", library(NAME, 2))
    stored = torch.load(hub / "checkpoints" / FILE)
    assert torch.equal(model.conv1[0].weight, stored["conv1.0.weight"]) and model.fc.weight.shape == (2, 1024)
    assert model.checkpoint_header["classes"] == ["cat", "dog"] and "class_ids" not in model.checkpoint_header
    assert model.checkpoint_header["preprocessing"]["resize"] == 73  # 64 * 256 / 224


def test_code_for_loading_names_library():
    assert (
        loading_code(Path("m"), "timm:resnet18")[-1]
        == "model = load_network('m', lambda: timm.create_model('resnet18'))"
    )
    assert loading_code(Path("m"), NAME)[1] == "from torchvision.models import shufflenet_v2_x0_5"


# ------------------------------------------------------------------------------------------------------------------------ timm


def test_network_of_timm_requires_timm(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert evaluate.main(["--model", "timm:resnet18", "--weights", "pretrained"]) == 2
    assert "the package timm is not installed; in the checkout, pip install -e './common[timm]'" in error_line(capsys)


def test_network_of_timm_has_its_own_weights_preprocessing_and_classes(hub, offline):
    timm = pytest.importorskip("timm")
    name = "timm:mobilenetv3_small_050"
    torch.manual_seed(1)
    stored = timm.create_model("mobilenetv3_small_050").state_dict()
    torch.save(stored, hub / "checkpoints" / library(name).weights()["pretrained"].places[1].name)
    for model in (library(name, 5).load("pretrained"), library(f"{name}.lamb_in1k").load("lamb_in1k")):
        assert all(torch.equal(tensor, stored[key]) for key, tensor in model.state_dict().items())
        header = model.checkpoint_header
        assert (header["preprocessing"]["resize"], header["preprocessing"]["interpolation"]) == (256, "bicubic")
        assert header["class_ids"][1] == "n01443537" and header["classes"][1].startswith("goldfish")
        assert "state_dict" not in model.pretrained_cfg
    assert library("timm.models:resnet18").expected() == library("timm:resnet18").expected()


def test_preprocessing_of_timm_is_that_of_its_configuration():
    pytest.importorskip("timm")
    for name, expected in {
        "efficientnet_lite0": (256, 224, "bicubic", "shorter"),
        "tf_efficientnet_lite0": (256, 224, "bicubic", "shorter"),
        "coat_lite_medium_384": (384, 384, "bicubic", "both"),
        "inception_v3": (341, 299, "bicubic", "shorter"),
    }.items():
        how = library(f"timm:{name}").expected()
        assert how is not None and (how.resize, how.crop, how.interpolation, how.fit) == expected, name


def test_unknown_network_of_timm_raises():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="timm has no network of this name; similar: .*efficientnet_lite"):
        import_factory("timm:efficientnet_lite")
