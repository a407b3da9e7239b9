"""The pipeline on digits: property 13 of the paper, run folders, interruptions, commands and invalid input."""

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from common.checkpoint import load_model, save_model
from common.data import load_dataset
from common.errors import UserError
from common.formats import load_network
from common.models import create_model
from common.pipeline import FineTuning, compress
from common.runs import open_stage
from common.settings import flatten, parse
from common.target import Target
from common.testing import run_method
from common.testing.limits import limited_start
from common.trained_model import read_trained_model
from common.training import TrainOptions, fit
from deep_compression import (
    commands,
    load_compressed,
    load_compressed_model,
    original_main,
    size_report,
    size_tables,
    stages,
)
from deep_compression.compression_recipe import CompressionRecipe, PruningPlan, QuantizationPlan
from deep_compression.method import EXTENDED, METHOD, paper_variant
from deep_compression.network_file import read_compressed
from deep_compression.paper import cifar10, mnist, select_settings
from deep_compression.pruning import prunable_weights, total_density
from deep_compression.settings import EncodeStage, EncodingOptions, OriginalPipeline, PruneStage, QuantizeStage
from deep_compression.size_target import compressed_size, find_density

TRAINING = TrainOptions(epochs=2, batch_size=64, learning_rate=0.05, weight_decay=5e-4, augment=False)
RECIPE = CompressionRecipe(
    PruningPlan("global-density", (0.2, 0.06)),
    TRAINING,
    QuantizationPlan(fc_bits=4, lloyd_steps=0),
    TrainOptions(epochs=2, batch_size=64, learning_rate=1e-3, weight_decay=0.0, optimizer="adam", augment=False),
)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def dense_file(tmp_path_factory, digits):
    """A dense network trained for a few seconds."""
    torch.manual_seed(0)
    model = create_model("lenet300_100", in_features=3072)
    fit(model, digits.train, TrainOptions(epochs=6, batch_size=64, learning_rate=0.05, augment=False))
    path = tmp_path_factory.mktemp("dense") / "model.safetensors"
    save_model(path, model, normalize=(digits.mean, digits.std), dataset="digits")
    return path


@pytest.fixture(scope="module")
def dense(dense_file, digits):
    return read_trained_model(dense_file, digits)


def root_stage(out, data, **more):
    return stages.root_stage(out, data, torch.device("cpu"), **more)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory, dense):
    """Run folder of the encoded network."""
    return stages.compress(dense, root_stage(tmp_path_factory.mktemp("run"), dense.data), RECIPE)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_accuracy_is_kept_and_file_is_small(compressed):
    metrics = metrics_of(compressed)
    before, after = metrics["baseline"], metrics["compressed"]
    assert before["top1"] > 90 and after["top1"] > before["top1"] - 1
    assert after["bytes"] == (compressed / "model.dcz").stat().st_size == sum(metrics["file"].values())
    assert metrics["rate"] > 40 and metrics["weight_bytes"] == 4 * (3072 * 300 + 30000 + 1000)
    assert after["agreement"] > 90 and after["macs"] == before["macs"]
    assert metrics["package"] == "deep_compression" and metrics["arch"] == "lenet300_100" and metrics["schema"] == 1


def test_every_stage_writes_run_folder(compressed):
    out = compressed.parent
    for stage, model in (("prune", "model.safetensors"), ("share", "model.safetensors"), ("encode", "model.dcz")):
        names = {p.name for p in (out / stage).iterdir()}
        assert {"config.json", "log.csv", "metrics.json", model} <= names and "state.pt" not in names
        assert not [p for p in (out / stage).rglob("*.part")]
    rounds = json.loads((out / "prune" / "rounds.json").read_text())
    assert [round(r["density"], 3) for r in rounds] == [0.2, 0.06]
    assert len((out / "prune" / "log.csv").read_text().splitlines()) == 1 + 2 * TRAINING.epochs


def test_file_contains_shared_weights(compressed):
    shared = load_model(compressed.parent / "share" / "model.safetensors")
    tensors = load_compressed(compressed / "model.dcz")
    assert all(torch.equal(t, tensors[n]) for n, t in shared.state_dict().items())
    for weight in prunable_weights(shared).values():
        assert len(weight[weight != 0].unique()) <= 15 and not torch.signbit(weight[weight == 0]).any()


def test_finished_stages_are_skipped_and_other_options_raise(compressed, dense):
    stage = root_stage(compressed.parent, dense.data)
    files = {p: p.stat().st_mtime_ns for p in compressed.parent.rglob("metrics.json")}
    assert stages.compress(dense, stage, RECIPE) == compressed
    assert {p: p.stat().st_mtime_ns for p in files} == files
    other = CompressionRecipe(
        PruningPlan("global-density", (0.2, 0.05)), TRAINING, RECIPE.quantization, RECIPE.quantization_training
    )
    with pytest.raises(stages.UserError, match="values"):
        stages.compress(dense, stage, other)


@pytest.mark.parametrize("stage", ["prune", "share"])
def test_interrupted_stage_ends_bit_identical(stage, tmp_path, compressed, dense, monkeypatch):
    """Interrupt the stage several times after some steps; it resumes from the last complete epoch."""
    cls, method = {"prune": (stages.PruningMaskHook, "__call__"), "share": (stages.CentroidTraining, "after_step")}[
        stage
    ]
    real, count, limits = getattr(cls, method), [0], iter([3, 25, 15, 30, math.inf])
    limit = [next(limits)]

    def failing(self):
        count[0] += 1
        if count[0] > limit[0]:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(cls, method, failing)
    interrupted = 0
    while True:
        try:
            if stage == "prune":
                stages.prune(dense, root_stage(tmp_path, dense.data), RECIPE.pruning, TRAINING)
            else:
                source = stages.open_network(compressed.parent / "prune" / "model.safetensors", dense)
                stages.quantize(
                    source, root_stage(tmp_path, dense.data), RECIPE.quantization, RECIPE.quantization_training
                )
            break
        except KeyboardInterrupt:
            interrupted += 1
            count[0], limit[0] = 0, next(limits)
    assert interrupted >= 3
    ours, theirs = (
        load_model(p / "model.safetensors").state_dict() for p in (tmp_path / stage, compressed.parent / stage)
    )
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_config_records_normalization_of_loaded_data(tmp_path, digits):
    """config.json does not depend on the checkpoint's normalization, so that finished runs are recognized."""
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", create_model("lenet300_100", in_features=3072), normalize=([0.5], [0.25]))
    few = replace(digits, train=digits.train.subset(range(8)), test=digits.test.subset(range(8)))
    start = read_trained_model(tmp_path / "m.safetensors", few)
    shared = stages.quantize(
        start, root_stage(tmp_path, few), QuantizationPlan(fc_bits=1, lloyd_steps=0), TrainOptions(0)
    )
    stages.encode(shared, root_stage(tmp_path, few), EncodeStage().encoding)
    for stage in ("share", "encode"):
        assert json.loads((tmp_path / stage / "config.json").read_text())["options"]["mean"] == list(digits.mean)
    assert load_compressed_model(tmp_path / "encode" / "model.dcz").checkpoint_header["normalize"]["mean"] == [0.5]


def test_force_restarts_stage(tmp_path, dense):
    plan = PruningPlan("density", (0.5,))
    training = TrainOptions(epochs=1, batch_size=256, learning_rate=0.01, augment=False)
    stages.prune(dense, root_stage(tmp_path, dense.data), plan, training)
    forced = root_stage(tmp_path, dense.data, force=True)
    stages.prune(dense, forced, PruningPlan("density", (0.25,)), training)
    assert metrics_of(tmp_path / "prune")["density"] == pytest.approx(0.25, abs=1e-4)


@pytest.fixture
def run(capsys):
    """Call a main(argv) and return (status, output, error)."""

    def call(main, *argv):
        status = main([str(w) for w in argv])
        found = capsys.readouterr()
        return status, found.out, found.err

    return call


def test_stages_run_as_commands(tmp_path, dense_file, run):
    short = ("--out", tmp_path, "--dataset", "digits", "--no-latency")
    training = ("--epochs", 1, "--batch-size", 256, "--no-augment")
    status, _, err = run(commands.main, "quantize", *short)
    assert status == 2 and "prune" in err  # the previous stage has not been run
    status, out, err = run(commands.main, "prune", "--checkpoint", dense_file, "--values", 0.3, 0.1, *short, *training)
    assert status == 0 and "% ->" in out, err
    argv = ("--fc-bits", 3, "--layer-bits", "fc3=4", "--bias-bits", 3, "--rounding", "bfloat16")
    status, _, err = run(commands.main, "quantize", *argv, *short, *training)
    assert status == 0, err
    status, out, err = run(commands.main, "encode", "--index-bits", 6, *short)
    assert status == 0 and "smaller than the dense weights" in out, err
    assert metrics_of(tmp_path / "encode")["baseline"]["nonzero_params"] > 900_000
    file = tmp_path / "encode" / "model.dcz"
    assert metrics_of(tmp_path / "share")["clusters"]["fc3.weight"] <= 15
    status, out, _ = run(commands.main, "decode", file, "--output", tmp_path / "d.safetensors")
    decoded = load_model(tmp_path / "d.safetensors")
    assert status == 0 and all(torch.equal(t, decoded.state_dict()[n]) for n, t in load_compressed(file).items())
    argv = ("--dataset", "digits", "--no-latency", "--json", tmp_path / "e.json", "--baseline", dense_file)
    assert run(commands.main, "evaluate", file, *argv)[0] == 0
    values = json.loads((tmp_path / "e.json").read_text())
    assert (
        values["top1"] == metrics_of(tmp_path / "encode")["compressed"]["top1"]
        and values["bytes"] == file.stat().st_size
    )
    argv = ("--json", tmp_path / "r.json", "--plots", tmp_path / "plots")
    status, out, _ = run(commands.main, "report", file, *argv)
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 0 and "index bits (P+Q+H)" in out and report["bytes"] == file.stat().st_size
    assert {row["name"] for row in report["layers"]} >= {"fc1", "fc2", "fc3"}
    assert {"bits-per-layer.png", "bytes.png", "weights-00.png"} <= {p.name for p in (tmp_path / "plots").iterdir()}


def test_compress_accepts_channel_pruned_network(tmp_path, run):
    """A checkpoint with channels pruned by another package is compressed further."""
    model = create_model("lenet300_100", in_features=3072)
    for layer, shape in ((model.fc1, (100, 3072)), (model.fc2, (40, 100)), (model.fc3, (10, 40))):
        layer.weight = torch.nn.Parameter(torch.randn(shape) * 0.05)
        layer.bias = torch.nn.Parameter(torch.zeros(shape[0]))
    save_model(tmp_path / "small.safetensors", model)
    argv = ("--dataset", "digits", "--no-latency", "--epochs", 1, "--quantize-epochs", 1, "--batch-size", 256)
    status, out, _ = run(
        commands.main,
        "compress",
        "--checkpoint",
        tmp_path / "small.safetensors",
        *argv,
        "--rule",
        "std",
        "--values",
        1.0,
        "--out",
        tmp_path / "c",
    )
    assert status == 0 and str(tmp_path / "c" / "encode") in out
    assert load_compressed_model(tmp_path / "c" / "encode" / "model.dcz").fc1.out_features == 100


def test_original_command_line_runs(tmp_path, run):
    argv = (
        "--dataset",
        "digits",
        "--arch",
        "lenet300_100",
        "--saved-dir",
        tmp_path,
        "--base-epochs",
        1,
        "--epoch",
        1,
        "--iter",
        3,
        "--lr1",
        "0.02,0.02,0.01",
        "--lcluster",
        "4,9",
        "--lr2",
        "1e-5,1e-5",
        "--no-latency",
        "--plots",
    )
    status, out, _ = run(original_main.main, *argv)
    assert status == 0 and "lenet300_100_Shared09" in out
    assert {"lenet300_100_Pruned02.t7", "lenet300_100_Shared04.t7"} <= {p.name for p in tmp_path.iterdir()}
    flatten = torch.load(tmp_path / "lenet300_100_Shared04.t7", weights_only=True)
    assert len(flatten["fc1.weight"][flatten["fc1.weight"] != 0].unique()) <= 4
    assert (tmp_path / "lenet300_100-plots" / "clusters.png").is_file()
    status, out, _ = run(original_main.main, *argv[:-1], "--cluster_method", "kmeans", "--apply_pruning", "False")
    assert status == 0 and "lenet300_100_Shared09-kmeans" in out


def own_network(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, num_classes))


def test_original_command_line_plots_own_network(tmp_path, run):
    argv = (
        f"--dataset digits --base-epochs 1 --epoch 1 --iter 2 --lcluster 4 --no-latency --saved-dir {tmp_path}".split()
    )
    status, _, err = run(original_main.main, *argv, "--model", f"{__name__}:own_network", "--plots")
    assert (status, err) == (0, "")
    drawn = {path.name for path in tmp_path.glob("*-plots/**/*.png")}
    assert {"pruning.png", "clusters.png", "Weight_00.png", "Weight_01.png"} <= drawn


def test_stages_say_how_they_differ_from_paper(dense_file, tmp_path, run):
    """The defaults, which have the paper's method, and the options of the extended variant."""
    argv = f"compress --checkpoint {dense_file} --dataset digits --epochs 0 --quantize-epochs 0 --no-latency".split()
    _, out, _ = run(commands.main, *argv, "--values", "1", "--out", tmp_path / "paper")
    assert [f"{stage}: the paper's method" in out for stage in ("prune", "quantize", "encode")] == [True] * 3
    ours = "--rule global-density --values 0.1 --method kmeans-relocation --lloyd-steps 0 --index-bits auto --coder ans"
    _, out, _ = run(commands.main, *argv, *ours.split(), "--out", tmp_path / "ours")
    assert "prune: extended, differs from the paper: rule global-density" in out
    assert "quantize: extended, differs from the paper: clustering kmeans-relocation, 0 Lloyd steps" in out
    assert "encode: extended, differs from the paper: index bits chosen for the size, coder ans" in out


def test_original_defaults_are_kept():
    settings = parse(OriginalPipeline, [])
    args = settings.original
    assert len(args.lr1) == 25 and args.lr1[:4] == (0.02, 0.02, 0.015, 0.01) and args.lr1[-1] == 0.0001
    assert args.lr2 == (1e-5, 1e-5, 1e-4, 1e-4, 0.005, 0.005, 0.005, 0.001, 0.001, 0.001, 0.001)
    assert args.lrsch_1 == (4, 11, 17, 22) and args.lrsch_2 == (8, 13, 18, 23)
    assert args.lcluster == (4, 5, 7, 9, 11, 13, 15, 18, 20, 25, 35) and args.cluster_method == "GMM"
    assert (args.factor, args.epoch, args.iter, args.gpus) == (0.2, 25, 25, None)
    assert args.apply_pruning is False and args.apply_sharing is True
    assert settings.arch == "vgg19" and settings.data.dataset == "cifar10"


def test_flat_settings_have_expected_names():
    """flat() has the names in run folders and result files."""
    assert {"lr1", "lrsch_1", "apply_pruning", "saved_dir", "dataset", "seed", "amp", "index_bits"} <= set(
        flatten(parse(OriginalPipeline, []))
    )
    argv = "--layer fc1=0.5,0.2 --layer fc3=0.9 --schedule multi-step --milestones 3 4 --no-augment --amp --arch lenet5".split()
    prune = parse(PruneStage, argv)
    assert prune.pruning.plan() == PruningPlan("density", (0.3, 0.1), {"fc1": (0.5, 0.2), "fc3": (0.9,)})
    usual = TrainOptions(10, 128, 0.01, 0.9, 5e-4, schedule="multi-step", milestones=(3, 4), augment=False, amp=True)
    assert prune.options() == usual and parse(PruneStage, []).pruning.layer == {}
    quantize = parse(QuantizeStage, "--layer-bits fc3=4 --clusters 9".split())
    assert quantize.quantization.plan() == QuantizationPlan(layer_bits={"fc3": 4}, clusters=9)
    assert quantize.options() == TrainOptions(3, 128, 1e-4, 0.9, 0.0)
    assert asdict(parse(EncodeStage, []).encoding) == {"index_bits": (5,), "order": "rows", "coder": "huffman"}
    both = parse(EncodeStage, "--index-bits 8 5".split()).encoding
    assert both.index_bits_by_type() == {"conv": 8, "fc": 5}
    assert parse(EncodeStage, "--index-bits auto 4".split()).encoding.index_bits_by_type() == {"conv": None, "fc": 4}


def test_vgg19_has_original_parameters():
    model = create_model("vgg19")
    assert sum(p.numel() for p in model.parameters()) == 38_958_922
    assert sum(t.numel() for n, t in model.state_dict().items() if "num_batches" not in n) == 38_969_930
    small = create_model("vgg19", head=8)
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)


BAD = {
    "no stage": (commands, []),
    "unknown stage": (commands, ["squash"]),
    "no network": (commands, ["prune", "--dataset", "digits"]),
    "missing checkpoint": (commands, ["prune", "--dataset", "digits", "--checkpoint", "NONE"]),
    "missing weights": (commands, ["prune", "--dataset", "digits", "--arch", "lenet5", "--weights", "NONE"]),
    "density out of range": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--values", "1.5"]),
    "density nan": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--values", "nan"]),
    "unknown rule": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--rule", "luck"]),
    "unknown layer": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--layer", "fc9=0.1"]),
    "layer without value": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--layer", "fc1"]),
    "epochs negative": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--epochs", "-1"]),
    "bits out of range": (commands, ["quantize", "--dataset", "digits", "--checkpoint", "GOOD", "--fc-bits", "33"]),
    "clusters zero": (commands, ["quantize", "--dataset", "digits", "--checkpoint", "GOOD", "--clusters", "0"]),
    "index bits": (commands, ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--index-bits", "40"]),
    "index bits zero": (commands, ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--index-bits", "0"]),
    "three index bits": (
        commands,
        ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--index-bits", "5", "5", "5"],
    ),
    "unknown data": (commands, ["encode", "--dataset", "moon", "--checkpoint", "GOOD"]),
    "missing data": (commands, ["encode", "--dataset", "mnist", "--dataset-dir", "NONE", "--checkpoint", "GOOD"]),
    "damaged checkpoint": (commands, ["encode", "--dataset", "digits", "--checkpoint", "TEXT"]),
    "not a compressed file": (commands, ["report", "TEXT"]),
    "missing file": (commands, ["report", "NONE"]),
    "damaged compressed file": (commands, ["report", "CUT"]),
    "damaged file to decode": (commands, ["decode", "CUT"]),
    "damaged file to evaluate": (commands, ["evaluate", "CUT", "--dataset", "digits"]),
    "pickle with code": (commands, ["prune", "--dataset", "digits", "--arch", "lenet5", "--weights", "PICKLE"]),
    "file in place of the folder": (
        commands,
        ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--out", "TEXT"],
    ),
    "missing factory": (
        commands,
        ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--model", "no:no"],
    ),
    "original: unknown arch": (original_main, ["--dataset", "digits", "--arch", "x"]),
    "original: no rounds": (original_main, ["--dataset", "digits", "--iter", "1"]),
    "original: not a number": (original_main, ["--dataset", "digits", "--lr1", "fast"]),
    "original: too few learning rates": (original_main, ["--dataset", "digits", "--lr1", "0.1"]),
    "original: too few learning rates of centroids": (original_main, ["--dataset", "digits", "--lr2", "0.1"]),
    "original: neither true nor false": (original_main, ["--apply_pruning", "perhaps"]),
    "original: missing pretrained": (original_main, ["--dataset", "digits", "--pretrained", "NONE"]),
    "original: one kind of bits": (original_main, ["--dataset", "digits", "--conv-bits", "4"]),
    "original: no such GPU": (original_main, ["--dataset", "digits", "--device", "cuda:99"]),
    "original: pretrained of text": (
        original_main,
        ["--dataset", "digits", "--arch", "lenet5", "--pretrained", "TEXT"],
    ),
    "original: pretrained pickle with code": (
        original_main,
        ["--dataset", "digits", "--arch", "lenet5", "--pretrained", "PICKLE"],
    ),
    "original: negative epochs": (original_main, ["--dataset", "digits", "--epoch", "-1"]),
    "original: unknown clustering": (original_main, ["--cluster_method", "medians"]),
    "nonfinite loss": (
        commands,
        ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--learning-rate", "1e30", "--epochs", "1"],
    ),
    "learning rate nan": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--learning-rate", "nan"]),
    "abbreviated option": (commands, ["prune", "--dataset", "digits", "--checkpoint", "GOOD", "--val", "0.1"]),
    "negative steps": (commands, ["quantize", "--dataset", "digits", "--checkpoint", "GOOD", "--lloyd-steps", "-1"]),
    "bits of an unknown layer": (
        commands,
        ["quantize", "--dataset", "digits", "--checkpoint", "GOOD", "--layer-bits", "fc9=4"],
    ),
    "unknown coder": (commands, ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--coder", "zip"]),
    "images of another shape": (commands, ["encode", "--dataset", "IMAGES", "--checkpoint", "GOOD"]),
    "images of another shape to evaluate": (commands, ["evaluate", "GOOD", "--dataset", "IMAGES"]),
    "baseline of another shape": (
        commands,
        ["encode", "--dataset", "digits", "--checkpoint", "GOOD", "--baseline", "MNISTNET"],
    ),
    "folder without images": (commands, ["encode", "--dataset", "folder:NONE", "--checkpoint", "GOOD"]),
    "missing MNIST": (mnist, ["--dataset-dir", "NONE"]),
    "selection without MNIST": (select_settings, ["--dataset-dir", "NONE"]),
    "CIFAR-10: unknown arch": (cifar10, ["--dataset", "digits", "--arch", "resnet57", "--weights", "NONE"]),
    "CIFAR-10: missing weights": (cifar10, ["--dataset", "digits", "--weights", "NONE"]),
    "CIFAR-10: density in percent": (cifar10, ["--dataset", "digits", "--weights", "NONE", "--densities", "30"]),
}


class Evil:
    def __reduce__(self):
        return (print, ("this code must not run",))


@pytest.fixture(scope="module")
def places(tmp_path_factory, dense_file, compressed):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text").write_text("hello")
    save_model(folder / "mnist.safetensors", create_model("lenet300_100"))
    for side, label in itertools.product(("train", "test"), ("a", "b")):
        (folder / "images" / side / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8)).save(folder / "images" / side / label / f"{i}.png")
    (folder / "cut.dcz").write_bytes((compressed / "model.dcz").read_bytes()[:-100])
    torch.save({"w": Evil()}, folder / "evil.pth")
    names = {"NONE": "none", "TEXT": "text", "CUT": "cut.dcz", "PICKLE": "evil.pth"}
    return {
        **{word: str(folder / name) for word, name in names.items()},
        "GOOD": str(dense_file),
        "MNISTNET": str(folder / "mnist.safetensors"),
        "IMAGES": f"folder:{folder / 'images'}",
    }


@pytest.mark.parametrize("what", BAD)
def test_invalid_input_fails_with_one_line(what, places, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, argv = BAD[what]
    status, out, err = run(
        module.main, *[places.get(w, w.replace("folder:NONE", f"folder:{places['NONE']}")) for w in argv]
    )
    assert status == 2, (out, err)
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err and "must not run" not in out + err
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("config.json", "dense.safetensors")]
    assert not left, left


def test_compressed_files_are_format_of_common(compressed, dense_file):
    file = compressed / "model.dcz"
    assert read_compressed(Path(dense_file)) is None
    model = read_compressed(file)
    assert torch.equal(model.fc1.weight, load_compressed(file)["fc1.weight"])
    assert model.checkpoint_header["dataset"] == "digits"
    try:
        again = load_network(file)
    except stages.UserError:
        pytest.skip("the package is not installed: its entry points are not known")
    assert torch.equal(again.fc1.weight, model.fc1.weight)


@pytest.mark.parametrize(
    ("method", "bits"),
    [pytest.param(METHOD, 8, id="paper"), pytest.param(EXTENDED, 4, id="extended", marks=pytest.mark.slow)],
)
def test_method_meets_byte_target(method, bits, tmp_path, digits):
    few = replace(digits, train=digits.train.subset(range(64)), test=digits.test.subset(range(20)))
    file = tmp_path / "model.safetensors"
    save_model(file, create_model("resnet20"), normalize=(digits.mean, digits.std))
    start, recipe = read_trained_model(file, few), TrainOptions(epochs=1, batch_size=32, learning_rate=0.01)

    def row(fraction, place, **more):
        stage = open_stage(tmp_path / place, "compare", {"target": fraction}, recipe=recipe, log=[].append, **more)
        return compress(method, start, Target(fraction, method.axis), stage, latency=False)

    metrics, out = row(0.05, "out"), tmp_path / "out"
    assert method.axis == "bytes" and method.trains
    assert 0.98 <= (out / metrics["file"]).stat().st_size / (0.05 * file.stat().st_size) <= 1.0
    assert {p.name for p in out.iterdir()} >= {"prune", "share", "trimmed.safetensors", "model.dcz"}
    assert json.loads((out / "share" / "config.json").read_text())["package"] == "deep_compression"
    written = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "config.json"}
    assert row(0.05, "out") == metrics and {p: p.stat().st_mtime_ns for p in written} == written
    assert row(0.1, "out", force=True)["compressed"]["bytes"] > 1.9 * metrics["compressed"]["bytes"]
    with pytest.raises(
        UserError, match=rf"--target-bytes 0.0005: no density at {bits} bits per weight .* the nearest keep"
    ):
        row(0.0005, "small")
    assert [p.name for p in (tmp_path / "small").iterdir()] == ["config.json"]


def test_network_whose_file_is_smaller_than_target_keeps_its_density():
    """After training, even all remaining weights may need fewer bytes than the target: the smaller file is kept."""
    model, size = create_model("lenet5", in_channels=3, image_size=32), paper_variant("lenet5").size
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.mul_(weight.abs() > weight.abs().quantile(0.9))
    density, bytes_of_all = total_density(model), compressed_size(model, size, 1.0)
    dense_bytes, target = 10 * bytes_of_all, Target(0.12, "bytes")
    assert find_density(model, size, target, dense_bytes, 0.995, allow_smaller=True) == density
    with pytest.raises(UserError, match=r"--target-bytes 0\.12: no density at 8 bits .* the nearest keep 0\.1000"):
        find_density(model, size, target, dense_bytes, 0.995)
    assert find_density(model, size, Target(0.05, "bytes"), dense_bytes, allow_smaller=True) < 0.9 * density


def test_paper_variant_has_paper_settings(tmp_path, digits):
    """8-bit k-means from linear initialization, thresholds by standard deviation, 5-bit differences; the note names the adaptation."""
    size = paper_variant("resnet20").size
    assert (
        size.plan == QuantizationPlan("kmeans", "linear", 8, 5)
        and size.encoding == EncodingOptions()
        and size.rule == "std"
    )
    assert paper_variant("lenet300_100").size.plan.fc_bits == 6
    assert paper_variant("alexnet").size.encoding.index_bits == (4,)
    assert (METHOD.variant, EXTENDED.variant, METHOD.default + EXTENDED.default) == ("paper", "extended", 1)
    assert "chosen for it" in METHOD.note and EXTENDED.note.startswith("differs from the paper: ")
    few = replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(8)))
    save_model(tmp_path / "model.safetensors", create_model("resnet20"), normalize=(digits.mean, digits.std))
    start, recipe = read_trained_model(tmp_path / "model.safetensors", few), TrainOptions(epochs=1, batch_size=32)
    metrics = run_method(METHOD, start, 0.1, tmp_path / "run", recipe=recipe)
    rows = {row.name: row for row in size_tables.layer_rows(size_report(tmp_path / "run" / metrics["file"]))}
    assert {row.index_bits for row in rows.values() if row.weights > 5000} == {5}
    assert rows["layer3.2.conv2"].weight_bits == 8
    options = json.loads((tmp_path / "run" / "share" / "config.json").read_text())["options"]
    assert (options["method"], options["lloyd_steps"], options["optimizer"]) == ("kmeans", None, "sgd")
    assert json.loads((tmp_path / "run" / "prune" / "config.json").read_text())["options"]["rule"] == "std"


@pytest.mark.parametrize(("given", "conv", "fc"), [("5", 5, 5), ("6 3", 6, 3)])
def test_index_bits_apply_to_layers_of_a_type(given, conv, fc, tmp_path, run):
    torch.manual_seed(0)
    model = create_model("lenet5", in_channels=3, image_size=32)
    with torch.no_grad():
        for weight in prunable_weights(model).values():
            weight.copy_(weight.sign() * (weight.abs() > 0.8 * weight.abs().max()))
    save_model(tmp_path / "model.safetensors", model)
    argv = ("encode", "--checkpoint", tmp_path / "model.safetensors", "--dataset", "digits", "--no-latency")
    assert run(commands.main, *argv, "--index-bits", *given.split(), "--out", tmp_path)[0] == 0
    rows = {row.name: row.index_bits for row in size_tables.layer_rows(size_report(tmp_path / "encode" / "model.dcz"))}
    assert rows == {"conv1": conv, "conv2": conv, "fc1": fc, "fc2": fc}
    recorded = json.loads((tmp_path / "encode" / "config.json").read_text())["options"]["index_bits"]
    assert recorded == (conv if conv == fc else [conv, fc])


@pytest.mark.parametrize("method", [METHOD, EXTENDED], ids=lambda method: method.variant)
def test_weights_of_excluded_layers_are_left_alone(method, tmp_path):
    """Without training, the excluded layers are bit-identical in the file; every other layer has a codebook."""
    start, recipe = limited_start(ignored_layers=["head", "fc"]), TrainOptions(epochs=0)
    stage = open_stage(tmp_path, "test", {}, recipe=recipe, log=lambda line: None)
    metrics = compress(method, start, Target(0.35, "bytes"), stage, FineTuning(recipe), latency=False)
    assert 0.98 * 0.35 <= metrics["compressed"]["bytes"] / start.bytes <= 0.35
    network, dense = load_network(tmp_path / metrics["file"], start.factory).state_dict(), start.model.state_dict()
    for name in ("stem", "blocks.0.0", "blocks.0.3", "blocks.1.0", "blocks.1.3", "head", "fc"):
        values = len(network[f"{name}.weight"].unique())
        if name in ("head", "fc"):
            assert torch.equal(network[f"{name}.weight"], dense[f"{name}.weight"])
            assert torch.equal(network[f"{name}.bias"], dense[f"{name}.bias"])
        else:
            assert values <= 256
    with pytest.raises(UserError, match="nearest keep 0.2"):
        compress(method, start, Target(0.05, "bytes"), replace(stage, folder=tmp_path / "small"), latency=False)
    start = limited_start(ignored_layers=["*"])
    with pytest.raises(UserError, match="the limits exclude the weights of all layers"):
        compress(method, start, Target(0.5, "bytes"), replace(stage, folder=tmp_path / "none"), latency=False)
