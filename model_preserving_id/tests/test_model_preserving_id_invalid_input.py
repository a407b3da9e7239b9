"""Invalid input to any command gives one error line, status 2 and no partially written files."""

import re

import numpy as np
import pytest
import torch

from common.checkpoint import save_model
from common.data import load_dataset
from common.models import create_model
from common.testing import HOSTILE_ARGUMENTS, HOSTILE_DATA_FIELDS, check_rejected, single_error_line
from model_preserving_id.paper import tables
from model_preserving_id.paper.experiments import conv3d, missing_class, ratios, wide
from model_preserving_id.portable import to_dict
from model_preserving_id.settings import prune_main, train_main


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Create valid and invalid files; ``{name}`` in the tables below is the path."""
    folder = tmp_path_factory.mktemp("files")
    digits = load_dataset("digits")
    torch.manual_seed(0)
    model = create_model("lenet5", in_channels=3, image_size=32).eval()
    about = {"normalize": (digits.mean, digits.std), "dataset": "digits", "classes": digits.classes}
    paths = {
        name: folder / f"{name}.safetensors"
        for name in ("good", "truncated", "flipped", "nan", "nameless", "gray", "wide")
    }
    save_model(paths["good"], model, **about)
    content = paths["good"].read_bytes()
    paths["truncated"].write_bytes(content[: len(content) // 2])
    paths["flipped"].write_bytes(content[:-100] + bytes(100))
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = float("nan")
    save_model(paths["nan"], model, **about)
    save_model(paths["gray"], create_model("fc4096", hidden=16))
    save_model(paths["wide"], create_model("fc4096", in_features=3072, hidden=16), **about)
    save_model(paths["nameless"], torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)))
    paths |= {name: folder / name for name in ("text", "empty", "other.pth", "list.pt", "file", "folder", "image")}
    paths["text"].write_text("hello")
    paths["empty"].write_bytes(b"")
    paths["file"].write_text("in the way")
    paths["folder"].mkdir()
    torch.save(create_model("lenet300_100").state_dict(), paths["other.pth"])
    torch.save([1, 2], paths["list.pt"])
    (paths["image"] / "train" / "one").mkdir(parents=True)
    (paths["image"] / "train" / "one" / "a.png").write_bytes(b"not an image")
    (paths["image"] / "val" / "one").mkdir(parents=True)
    (paths["image"] / "val" / "one" / "a.png").write_bytes(b"not an image")
    return {name.split(".")[0]: str(path) for name, path in paths.items()} | {"dense": str(paths["good"])}


PRUNE = [
    ("--arch lenet5", "--weights"),
    ("--arch resnet57 --weights {other}", "resnet57"),
    ("--arch lenet5 --weights {text}", "plain tensors|damaged"),
    ("--arch lenet5 --weights {empty}", "plain tensors|damaged"),
    ("--arch lenet5 --weights {list}", "state dict"),
    ("--arch lenet5 --weights {other}", "another network|does not have"),
    ("--arch lenet5 --weights {folder}", "no such file|folder"),
    ("--checkpoint nothing.safetensors", "no such file"),
    ("--checkpoint {text}", "checkpoint|safetensors"),
    ("--checkpoint {empty}", "checkpoint|safetensors"),
    ("--checkpoint {truncated}", "cut short|truncated|incomplete|whole"),
    ("--checkpoint {flipped}", "damaged"),
    ("--checkpoint {nameless}", "factory"),
    ("--checkpoint {nan}", "nan"),
    ("--checkpoint {gray}", r"does not accept the \w+ of digits, \(3, 32, 32\)"),
    ("--model nowhere", "PACKAGE.MODULE:FACTORY"),
    ("--model nowhere:build --weights {other}", "nowhere"),
    ("--checkpoint {good} --method best", "best"),
    ("--checkpoint {good} --method eps", "--eps"),
    ("--checkpoint {good} --method eps --eps 1.5", "eps"),
    ("--checkpoint {good} --method eps --eps nan", "eps"),
    ("--checkpoint {good} --eps 0.1", "--eps"),
    ("--checkpoint {good} --target-macs 1.2", "1.2"),
    ("--checkpoint {good} --target-macs 0", "target-macs"),
    ("--checkpoint {good} --target-macs half", "half"),
    ("--checkpoint {good} --target-macs nan", "nan"),
    ("--checkpoint {good} --method budget --target-macs 0.01", "nearest"),
    ("--checkpoint {good} --method budget --target-macs 0.97 --round-to 256", "nearest"),
    ("--checkpoint {good} --k 0", "--k"),
    ("--checkpoint {good} --k 1.5", "--k"),
    ("--checkpoint {good} --method frac --k 0", "--k|keep"),
    ("--checkpoint {good} --update-every 2", "--update-every"),
    ("--checkpoint {good} --residual all", "residual"),
    ("--checkpoint {good} --score best", "score"),
    ("--checkpoint {good} --compensation much", "compensation"),
    ("--checkpoint {good} --round-to 0", "round-to"),
    ("--checkpoint {good} --prune-batch-size 0", "prune-batch-size"),
    ("--checkpoint {good} --prune-batch-size 9999", "1297"),
    ("--checkpoint {good} --forward-blocksize 0", "forward-blocksize"),
    ("--checkpoint {good} --without-class 10", "0 to 9"),
    ("--checkpoint {good} --log-interval -1", "log-interval"),
    ("--checkpoint {good} --ignored-layers conv9", "conv9"),
    ("--checkpoint {good} --dataset nothing", "nothing"),
    ("--checkpoint {good} --dataset cifar10 --dataset-dir {folder}", "cifar10"),
    ("--checkpoint {good} --dataset folder:{folder}", "train"),
    ("--checkpoint {good} --dataset folder:{image}", "a.png|class"),
    ("--checkpoint {good} --device cuda:77", "cuda"),
    ("--checkpoint {good} --seed x", "seed"),
    ("--checkpoint {good} --seed -1", "--seed: -1"),
    ("--checkpoint {good} --out {file}", "file"),
    ("--checkpoint {good} --color red", "color"),
]
TRAIN = [
    ("", "--pretrained"),
    ("--pretrained nothing.pt", "no such file"),
    ("--pretrained {text}", "plain tensors|damaged"),
    ("--pretrained {list}", "not a network"),
    ("--pretrained {other}", "not a network"),
    ("--pretrained {dense} --epochs -1", "epochs"),
    ("--pretrained {dense} --epochs many", "epochs"),
    ("--pretrained {dense} --batch-size 0", "batch-size"),
    ("--pretrained {dense} --lr -1", "learning|lr"),
    ("--pretrained {dense} --lr nan", "learning|lr"),
    ("--pretrained {dense} --momentum 2", "momentum"),
    ("--pretrained {dense} --wd -1", "decay|wd"),
    ("--pretrained {dense} --schedule random", "schedule"),
    ("--pretrained {dense} --distill-weight 1", "--original"),
    ("--pretrained {dense} --distill-weight -1", "--distill-weight"),
    ("--pretrained {dense} --temperature 0", "--temperature"),
    ("--pretrained {dense} --distill-weight 1 --original nothing.safetensors", "no such file"),
    ("--pretrained {dense} --resume {text}", "resume"),
    ("--pretrained {dense} --resume {list}", "resume"),
    ("--pretrained {dense} --log_dir {file}", "file"),
    ("--pretrained {dense} --dataset mnist --dataset-dir {folder}", "mnist"),
    ("--pretrained {dense} --device tpu", "tpu"),
    ("--pretrained {dense} --seed -1", "--seed: -1"),
]
EXPERIMENTS = [
    (wide, "", "--checkpoint"),
    (wide, "--checkpoint {good} --dataset digits", "two linear layers"),
    (wide, "--checkpoint nothing.safetensors", "no such file"),
    (wide, "--checkpoint {gray} --dataset digits", "does not accept an example"),
    (wide, "--checkpoint {wide} --dataset digits --widths 17", "16 units"),
    (wide, "--checkpoint {wide} --dataset digits --out {file}", "is a file"),
    (missing_class, "--checkpoint {good} --without-class 10", "0 to 9"),
    (missing_class, "--checkpoint {good} --without-class -1", "0 to"),
    (missing_class, "--checkpoint {good} --every 0", "every"),
    (missing_class, "--checkpoint {good} --k 0", "--k"),
    (missing_class, "--checkpoint {good} --out {file}/deeper", "is a file"),
    (missing_class, "--checkpoint {gray}", r"does not accept the \w+ of digits"),
    (missing_class, "--arch lenet5", "--weights"),
    (conv3d, "--grid 9", "17"),
    (conv3d, "--lba {folder}", "atom3d|train"),
    (conv3d, "--out {file}", "is a file"),
    (conv3d, "--hidden 0", "hidden"),
    (conv3d, "--seed -1", "--seed: -1"),
    (ratios, "--checkpoint {good} --methods best", "best"),
    (ratios, "--checkpoint {good} --ratios 0", "ratios"),
    (ratios, "--checkpoint {good} --ratios nan", "ratios"),
    (ratios, "--checkpoint {good} --out {file}", "is a file"),
    (tables, "--add nothing", "no finished run"),
    (tables, "--add {folder}", "no finished run"),
    (tables, "--remove {folder}", "--remove"),
]


@pytest.mark.parametrize(
    ("main", "line", "message"),
    [(prune_main, *row) for row in PRUNE]
    + [(train_main, *row) for row in TRAIN]
    + [(module.main, *row) for module, *row in EXPERIMENTS],
    ids=lambda value: value if isinstance(value, str) else f"{value.__module__.rsplit('.', 1)[-1]}.{value.__name__}",
)
def test_invalid_input_gives_one_line_and_no_files(main, line, message, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = main([word.format(**files) for word in line.split()])
    line = single_error_line(status, capsys.readouterr().err)
    assert re.search(message, line), line
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.json"]
    assert written == []


def short_run(checkpoint, folder) -> list[str]:
    """Options of a run with 60 images."""
    words = ["--checkpoint", str(checkpoint), "--prune-batch-size", "60", "--out", str(folder)]
    return [*words, "--no-latency", "--threads", "1"]


def test_damaged_progress_file_raises(files, tmp_path, capsys):
    folder = tmp_path / "run"
    words = short_run(files["good"], folder)
    assert prune_main([*words, "--target-macs", "0.01"]) == 2
    (folder / "progress.pt").write_bytes(b"damaged")
    capsys.readouterr()
    assert prune_main([*words, "--target-macs", "0.01"]) == 2
    assert "progress.pt: the file is damaged" in capsys.readouterr().err
    assert not (folder / "metrics.json").exists() and not (folder / "model.safetensors").exists()


def test_full_disk_leaves_no_partial_network(files, tmp_path, capsys, monkeypatch):
    """A write error gives one line and no partially written network, and the same command completes the run later."""
    from common import checkpoint

    folder = tmp_path / "run"
    words = [*short_run(files["good"], folder), "--method", "budget", "--target-macs", "0.6"]

    def full(*arguments, **more):
        raise OSError(28, "No space left on device", str(folder / "model.safetensors"))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        assert prune_main(words) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (folder / "model.safetensors").exists() and not list(folder.glob("*.part"))
    assert prune_main(words) == 0 and (folder / "metrics.json").is_file()


def test_infinite_activations_raise(files, tmp_path, capsys):
    """Finite weights with infinite outputs."""
    torch.manual_seed(0)
    model = create_model("lenet5", in_channels=3, image_size=32).eval()
    with torch.no_grad():
        model.conv1.weight.fill_(np.float32(1e38))
    digits = load_dataset("digits")
    save_model(tmp_path / "m.safetensors", model, normalize=(digits.mean, digits.std), dataset="digits")
    words = short_run(tmp_path / "m.safetensors", tmp_path / "run")
    assert prune_main([*words, "--method", "budget"]) == 2
    assert "infinities or nan" in capsys.readouterr().err


@pytest.mark.parametrize("case", HOSTILE_ARGUMENTS)
def test_hostile_arguments_give_one_line(files, tmp_path, case):
    content = to_dict(create_model("lenet5"))
    content["arch"], content["args"] = HOSTILE_ARGUMENTS[case]
    file = tmp_path / "m.pt"
    torch.save(content, file)
    line = check_rejected(train_main, ["--pretrained", file, "--dataset", "digits", "--log_dir", tmp_path / "out"])
    assert str(file) in line and not (tmp_path / "out").exists()


def test_malformed_dictionary_raises(tmp_path):
    for change in ({"tensors": {"a": 1}}, {"tensors": {3: torch.zeros(1)}}, {"arch": 3}, {"args": None}, {"layers": 3}):
        torch.save(to_dict(create_model("lenet5")) | change, tmp_path / "m.pt")
        check_rejected(train_main, ["--pretrained", tmp_path / "m.pt", "--dataset", "digits"])


@pytest.mark.parametrize("case", HOSTILE_DATA_FIELDS)
def test_hostile_facts_give_one_line(tmp_path, case):
    file = tmp_path / "m.pt"
    torch.save(to_dict(create_model("lenet5", in_channels=3, image_size=32)) | HOSTILE_DATA_FIELDS[case], file)
    line = check_rejected(
        train_main, ["--pretrained", file, "--dataset", "digits", "--epochs", "0", "--log_dir", tmp_path]
    )
    assert str(file) in line
