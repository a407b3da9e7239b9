"""Widths, iterative pruning, labels, resuming, composition, and commands with invalid input; on a small network."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.channels import channel_groups
from common.checkpoint import load_model, save_model
from common.cost import WidthCost, count_cost
from common.data import load_dataset
from common.errors import UserError
from common.limits import Limits
from common.models import create_model
from common.target import Target
from model_preserving_id import prune_network
from model_preserving_id.calibration import calibration_images
from model_preserving_id.folded import FoldedNetwork
from model_preserving_id.iterate import IterationOptions, iterate
from model_preserving_id.low_rank import LayerRanks, choose_ranks, compressible_layers
from model_preserving_id.lrank import as_matrix, lrank
from model_preserving_id.lrank import factor_layer as lrank_layers
from model_preserving_id.pca import factor_layer as pca_layers
from model_preserving_id.pca import output_components, pca
from model_preserving_id.portable import as_network, from_dict, resolve_dataset, to_dict
from model_preserving_id.settings import prune_main, train_main

X = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("lenet5", in_channels=3, image_size=32).eval()


@pytest.fixture(scope="module")
def inputs(digits):
    return calibration_images(digits, 120, batch_size=60)


@pytest.fixture(scope="module")
def checkpoint(network, digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    save_model(path, network, normalize=(digits.mean, digits.std), dataset="digits", classes=digits.classes)
    return path


@pytest.mark.parametrize("target", [0.9, 0.5, 0.2])
def test_target_is_met(network, inputs, target):
    smaller = prune_network(network, X, inputs, target_macs=target)
    assert 0.98 * target <= count_cost(smaller, (3, 32, 32)).macs / count_cost(network, (3, 32, 32)).macs <= target


def test_unreachable_target_names_nearest_fraction(network, inputs):
    with pytest.raises(UserError, match="nearest"):
        prune_network(network, X, inputs, target_macs=0.0001)
    with pytest.raises(UserError, match="nearest"):
        prune_network(network, X, inputs, target_macs=0.97, round_to=256)


def test_round_to_ignored_layers_and_kept_are_respected(network, inputs):
    smaller = prune_network(network, X, inputs, target_macs=0.51, round_to=4, ignored_layers=["conv1"])
    widths = {group.name: group.size for group in channel_groups(smaller, X)}
    assert widths["conv1"] == 20 and all(width % 4 == 0 or width == 50 for width in widths.values())
    smaller = prune_network(network, X, inputs, kept={"conv2": 31})
    assert smaller.conv2.out_channels == 31 and smaller.conv1.out_channels == 20 and smaller.fc1.in_features == 31 * 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"kept": {"conv1": 3}, "target_macs": 0.5}, "exactly one"),
        ({"kept": {"nothing": 3}}, "nothing"),
        ({"kept": {"conv1": 0}}, "conv1: 0"),
        ({"kept": {"conv1": 21}}, "conv1: 21"),
        ({"kept": {"conv1": 2.5}}, "conv1"),
        ({"target_macs": 1.5}, "1.5"),
        ({"target_macs": float("nan")}, "nan"),
        ({"keep": 0.0}, "keep"),
        ({"eps": 1.0}, "eps"),
        ({"keep": 0.5, "residual": "some"}, "residual"),
        ({"keep": 0.5, "ignored_layers": ["nothing"]}, "nothing"),
        ({"keep": 0.5, "score": "best"}, "score"),
        ({"keep": 0.5, "compensation": "all"}, "compensation"),
    ],
)
def test_invalid_arguments_raise(network, inputs, arguments, message):
    with pytest.raises(UserError, match=message):
        prune_network(network, X, inputs, **arguments)


def test_invalid_inputs_raise(network):
    with pytest.raises(UserError, match="without labels"):
        prune_network(network, X, [(X, torch.zeros(1))], keep=0.5)
    with pytest.raises(UserError, match="no images"):
        prune_network(network, X, [], keep=0.5)
    with pytest.raises(UserError, match="nan"):
        prune_network(network, X, torch.full((2, 3, 32, 32), float("nan")), keep=0.5)


def test_labels_have_no_effect(network, digits):
    from common.data import MemoryImages

    train = digits.train
    shuffled = MemoryImages(train.images, train.labels[torch.randperm(len(train))], train.mean, train.std)
    from dataclasses import replace

    one, two = (
        prune_network(network, X, calibration_images(d, 80), target_macs=0.6)
        for d in (digits, replace(digits, train=shuffled))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_calibration_images_are_training_images_without_class(digits):
    chosen = calibration_images(digits, 200, seed=4, without_class=0)
    assert (chosen.image_set.labels != 0).all() and len(chosen.image_set) < 200
    expected = np.random.default_rng(2).permutation(len(digits.train))[:50]
    assert torch.equal(calibration_images(digits, 50).image_set.images, digits.train.images[expected])
    with pytest.raises(UserError, match="1297"):
        calibration_images(digits, 5000)


def test_iterative_pruning_follows_paper(network, inputs):
    """Properties 10 and 11: each step prunes one layer to max(1, int(k n)), with the smallest error per MAC of the layer and the next."""
    options = IterationOptions(Target(0.6), keep=0.8, update_every=0.0)
    folded = FoldedNetwork(network, X)
    rows, again = iterate(folded, inputs, options), iterate(FoldedNetwork(network, X), inputs, options)
    drop = lambda rows: [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]  # noqa: E731
    assert drop(rows) == drop(again)
    macs = [folded.dense_macs, *(row["macs"] for row in rows)]
    assert all(b < a for a, b in pairwise(macs)) and 0.98 * 0.6 <= macs[-1] / macs[0] <= 0.6
    assert all(a > 0.6 * macs[0] for a in macs[:-1])
    widths = {group.name: group.size for group in channel_groups(network, X)}
    cost = WidthCost(network, (3, 32, 32), channel_groups(network, X))
    for row in rows[:-1]:
        assert row["before"] == widths[row["layer"]] and row["after"] == max(
            1, min(int(0.8 * row["before"]), row["before"] - 1)
        )
        of_layers = cost.macs(widths) - cost.macs({**widths, row["layer"]: 0})  # those that produce or read the group
        assert row["score"] == pytest.approx(row["error"] / of_layers)
        widths[row["layer"]] = row["after"]
    assert all(row["agreement"] is not None for row in rows) and "fc2" not in widths


@pytest.mark.parametrize("score", ["pivot", "sigma", "frobenius"])
@pytest.mark.parametrize("residual", ["keep", "exact", "conv"])
def test_removed_channels_stay_removed(digits, score, residual):
    torch.manual_seed(0)
    network = create_model("resnet20").eval()
    with torch.no_grad():  # channel 3 is dead, and channel 5 duplicates channel 4
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight[3], norm.bias[3] = 0.0, 0.0
    images = calibration_images(digits, 24, batch_size=24)
    folded, kept = FoldedNetwork(network, X, residual=residual), {}

    def check(now: FoldedNetwork, row) -> None:
        for name, channels in now.kept.items():
            assert set(channels) <= set(kept.get(name, channels)), row
        kept.update(now.kept)

    rows = iterate(folded, images, IterationOptions(Target(0.7), keep=0.9, score=score), on_step=check)
    picks = [row["layer"] for row in rows]
    assert len(picks) > len(set(picks)), "no group is picked twice"
    assert all(len(kept[row["layer"]]) <= row["after"] for row in rows)


def test_step_changes_only_consumers_of_its_group(network, inputs):
    """T is solved for the removed channels of a step and composed with earlier ones; nothing else is solved again."""
    folded, weights, layers = FoldedNetwork(network, X), {}, []

    def check(now: FoldedNetwork, row) -> None:
        layers.append(row["layer"])
        own = {one.consumer for one in now.consumer_inputs([row["layer"]])}
        for one in now.consumer_inputs():
            weight = now.model.get_submodule(one.consumer).weight.detach()
            same = one.consumer in weights and torch.equal(weight, weights[one.consumer])
            assert same == (one.consumer in weights and one.consumer not in own), (row, one.consumer)
            weights[one.consumer] = weight.clone()

    iterate(folded, inputs, IterationOptions(Target(0.6), keep=0.8), on_step=check)
    assert layers.index("fc1") < layers.index("conv1"), "no layer in front of a pruned one is pruned"


def test_interrupted_iteration_is_bit_identical(network, inputs, tmp_path):
    options = IterationOptions(Target(0.6), keep=0.8, update_every=0.0)
    folded = FoldedNetwork(network, X)
    expected = iterate(folded, inputs, options)
    uninterrupted = folded.build_pruned().state_dict()

    class Stop(Exception):
        pass

    iterations = []
    for stop_at in (3, 5):

        def stop(_, row, at=stop_at):
            iterations.append(row["iteration"])
            if row["iteration"] == at:
                raise Stop

        with pytest.raises(Stop):
            iterate(FoldedNetwork(network, X), inputs, options, state=tmp_path / "progress.pt", on_step=stop)
    assert iterations.count(1) == 1, "the second call resumes from the last update"
    folded = FoldedNetwork(network, X)
    rows = iterate(folded, inputs, options, state=tmp_path / "progress.pt")
    resumed = folded.build_pruned().state_dict()
    assert [(r["layer"], r["before"], r["after"]) for r in rows] == [
        (r["layer"], r["before"], r["after"]) for r in expected
    ]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in uninterrupted.items())
    (tmp_path / "progress.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        iterate(FoldedNetwork(network, X), inputs, options, state=tmp_path / "progress.pt")


def test_targets_share_the_steps_that_do_not_depend_on_them(tmp_path):
    layers = [torch.nn.Conv2d(3, 64, 3)] + [torch.nn.Conv2d(64, 64, 1) for _ in range(7)]
    network = torch.nn.Sequential(*(m for layer in layers for m in (layer, torch.nn.ReLU())), torch.nn.Flatten())
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shared = tmp_path / "steps.pt"
    taken = {}

    def prune(target, shared=None):
        folded, steps = FoldedNetwork(network, images[:1]), []
        options = IterationOptions(Target(target), keep=0.95)
        rows = iterate(folded, [images], options, shared=shared, on_step=lambda _, row: steps.append(row))
        taken[target] = len(steps)
        return rows, folded.build_pruned().state_dict()

    for target in (0.9, 0.8, 0.6, 0.85):  # the last one is larger than one before
        alone, together = prune(target), prune(target, shared)
        for row, other in zip(alone[0], together[0], strict=True):
            assert {**row, "seconds": 0, "cpu_seconds": 0} == {**other, "seconds": 0, "cpu_seconds": 0}
        assert all(torch.equal(tensor, together[1][name]) for name, tensor in alone[1].items())
        rows = len(alone[0])
        assert taken[target] == rows if target in (0.9, 0.85) else 0 < taken[target] < 0.8 * rows


def test_iteration_on_one_layer_equals_one_shot(network, inputs):
    folded = FoldedNetwork(network, X, limits=Limits(ignored=("conv1", "fc1")))
    rows = iterate(folded, inputs, IterationOptions(Target(0.7), keep=0.9, update_every=0.0))
    width = rows[-1]["after"]
    one, two = folded.build_pruned(), prune_network(network, X, inputs, kept={"conv2": width})
    assert torch.equal(one.conv2.weight, two.conv2.weight) and torch.allclose(one.fc1.weight, two.fc1.weight, atol=1e-6)


@pytest.mark.parametrize("how", ["t", "weights"])
def test_compensation_reduces_output_error(network, inputs, how):
    batch = torch.cat(list(inputs))
    with torch.no_grad():
        outputs = network(batch)
        errors = [
            float((prune_network(network, X, inputs, keep=0.5, compensation=one)(batch) - outputs).square().mean())
            for one in ("none", how)
        ]
    assert errors[1] < errors[0]


def test_full_rank_factors_reproduce_layer(inputs):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 7, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(4))
    batch = torch.cat(list(inputs))
    with torch.no_grad():
        model(batch)
        u, s, vt = torch.linalg.svd(as_matrix(layer).double(), full_matrices=False)
        found = output_components(model, [batch])
        for factors in (lrank_layers(layer, u, s, vt, len(s)), pca_layers(layer, found["0"], 7)):
            assert torch.allclose(factors(batch), layer(batch), atol=1e-4)
        assert torch.allclose(pca_layers(layer, found["0"], 7)[1].bias, layer.bias, atol=1e-5)
        short = pca_layers(layer, found["0"], 3)(batch)
        assert torch.allclose(short.mean((0, 2, 3)), layer(batch).mean((0, 2, 3)), atol=0.05)


@pytest.mark.parametrize("method", ["pca", "lrank"])
def test_factorization_meets_ratio_and_reloads(network, inputs, method, tmp_path):
    smaller = pca(network, (3, 32, 32), inputs, 0.6) if method == "pca" else lrank(network, (3, 32, 32), 0.6)
    fraction = sum(p.numel() for p in smaller.parameters()) / sum(p.numel() for p in network.parameters())
    assert fraction == pytest.approx(0.6, rel=0.005)
    dense = {name: module.weight.numel() for name, module in compressible_layers(network)}
    for name, weights in dense.items():
        assert (
            sum(p.numel() for n, p in smaller.named_parameters() if n.startswith(f"{name}.") and p.dim() > 1) <= weights
        )
    save_model(tmp_path / "m.safetensors", smaller)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors")(X), smaller(X))
        assert torch.equal(from_dict(to_dict(smaller))(X), smaller(X))
    with pytest.raises(UserError, match="nearest"):
        lrank(network, (3, 32, 32), 0.0001)


def test_unreachable_keep_ratio_raises():
    layers = {"a": LayerRanks(np.array([3.0, 2.0, 1.0]), per_rank=100, dense=400)}
    assert choose_ranks(layers, 400, 0.5) == {"a": 2} and choose_ranks(layers, 400, 1.0) == {"a": None}
    with pytest.raises(UserError, match=r"0\.5 %; the nearest is 0\.5000"):
        choose_ranks(layers, 400, 0.6)


def run_main(*words: str) -> int:
    return prune_main([*words, "--threads", "1", "--device", "cpu"])


def test_command_writes_run_and_skips_finished_run(checkpoint, tmp_path, capsys):
    words = ["--checkpoint", str(checkpoint), "--prune-batch-size", "60", "--target-macs", "0.6", "--k", "0.7"]
    words += ["--no-latency", "--out", str(tmp_path / "run")]
    assert run_main(*words) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0.98 * 0.6 <= metrics["compressed"]["macs"] / metrics["baseline"]["macs"] <= 0.6
    assert {"config.json", "decision.json", "log.csv", "metrics.json", "model.safetensors"} == {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert (tmp_path / "run" / "log.csv").read_text().startswith("iteration,layer,before,after,error,score,macs")
    capsys.readouterr()
    assert run_main(*words) == 0 and "finished" in capsys.readouterr().out
    assert run_main(*words[:5], "0.5", *words[6:]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "lenet5"], "--weights"),
        (["--arch", "resnet57", "--weights", __file__], "resnet57"),
        (["--checkpoint", "nothing.safetensors"], "no such file"),
        (["--checkpoint", "{c}", "--method", "eps"], "--eps"),
        (["--checkpoint", "{c}", "--eps", "0.1"], "--eps"),
        (["--checkpoint", "{c}", "--target-macs", "1.2"], "1.2"),
        (["--checkpoint", "{c}", "--target-macs", "nan"], "nan"),
        (["--checkpoint", "{c}", "--k", "0"], "--k"),
        (["--checkpoint", "{c}", "--update-every", "2"], "--update-every"),
        (["--checkpoint", "{c}", "--residual", "all"], "residual"),
        (["--checkpoint", "{c}", "--prune-batch-size", "9999"], "1297"),
        (["--checkpoint", "{c}", "--dataset", "nothing"], "nothing"),
        (["--checkpoint", __file__], "checkpoint|safetensors"),
        (["--checkpoint", "{c}", "--ignored-layers", "conv9"], "conv9"),
        (["--checkpoint", "{c}", "--device", "cuda:77"], "cuda"),
    ],
)
def test_invalid_options_give_one_line(words, message, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = prune_main([word.replace("{c}", str(checkpoint)) for word in words])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1
    assert __import__("re").search(message, lines[0]), lines[0]
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("metrics.json"))


def test_original_readme_runs(checkpoint, tmp_path, monkeypatch, capsys):
    """The Python lines and the train.py command, run in the package's folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))
    for name in ("main", "pca", "lrank"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from lrank import lrank_prune
    from main import create_args, iditer
    from pca import pca_prune

    args = create_args()
    args.arch = "lenet5"
    args.dataset, args.load_fname = "digits", str(checkpoint)
    args.seed = 2
    args.prune_batch_size = 60
    args.k = 0.7
    args.log_interval = 10
    args.k_args = "iditer"
    args.device = "cpu"
    iditer(args, str(tmp_path / "id"))
    net = torch.load(tmp_path / "id" / "modelIDiter_final.pt")
    assert isinstance(net, dict) and (tmp_path / "id" / "modelIDiter_cnt0.pt").is_file()
    for prune, ratio in ((pca_prune, 0.70), (lrank_prune, 0.8)):
        smaller = prune(
            net=net, keep_ratio=ratio, prune_size=60, savename="x", folder=tmp_path / "checkpoints", device="cpu"
        )
        assert isinstance(smaller, nn.Module)
    assert (tmp_path / "checkpoints" / "pca" / "xpca_k0.7_p60.tp").is_file()
    assert (tmp_path / "checkpoints" / "lrank" / "xlrank_k0.8_p60.tp").is_file()
    assert as_network(tmp_path / "id" / "modelIDiter_final.pt")(X).shape == (1, 10)
    words = ["--arch", "lenet5", "--epochs", "1", "--batch-size", "100", "--lr", "0.01", "--momentum", "0.9"]
    words += ["--weight-decay", "1e-4", "--prune-batch-size", "60", "--print-freq", "5000", "--workers", "0"]
    words += [
        "--resume",
        str(tmp_path / "none" / "checkpoint.pth.tar"),
        "--pretrained",
        str(tmp_path / "id" / "modelIDiter_final.pt"),
    ]
    words += [
        "--dist-url",
        "tcp://127.0.0.1:40781",
        "--dist-backend",
        "nccl",
        "--seed",
        "2",
        "--multiprocessing-distributed",
    ]
    words += [
        "--world-size",
        "1",
        "--rank",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]  # the file contains the name of the data set
    for spelling in ("--evalute", "--evaluate"):
        with pytest.warns(UserWarning, match="gloo|no such file"):
            assert train_main([*words, spelling, "--log_dir", str(tmp_path / spelling)]) == 0
        assert "before fine-tuning" in capsys.readouterr().out
    content = torch.load(tmp_path / "--evalute" / "checkpoint.pth.tar")
    assert content["epoch"] == 1 and content["state_dict"]


def test_data_set_is_read_from_file_unless_option_is_given(network):
    model = from_dict(to_dict(network, dataset="cifar10", dataset_dir="there", normalize={"mean": [0.5], "std": [0.2]}))
    assert model.checkpoint_header["normalize"] == {"mean": [0.5], "std": [0.2]}
    assert resolve_dataset(model, None, None) == resolve_dataset(model, "cifar10", None) == ("cifar10", "there")
    assert resolve_dataset(model, None, "here") == ("cifar10", "here") and resolve_dataset(model, "mnist", None) == (
        "mnist",
        None,
    )
    assert resolve_dataset(from_dict(to_dict(network)), None, None) == ("imagenet", None)
    with pytest.raises(UserError, match="data set"):
        from_dict(to_dict(network, dataset=["cifar10"]))


def test_train_gives_one_error_line(capsys, tmp_path):
    for words in ([], ["--pretrained", str(tmp_path / "none.pt")], ["--pretrained", "x.pt", "--distill-weight", "1"]):
        assert train_main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


class PaddedConv(nn.Conv2d):
    """A convolution whose padding is a child module, as in timm's EfficientNet-Lite."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x):
        return super().forward(self.pad(x))


def padded_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [PaddedConv(3, 48, 3), nn.ReLU(), PaddedConv(48, 64, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 40)).eval()


def test_target_of_network_whose_convolutions_have_children_is_met():
    model, images = padded_network(), torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pruned = prune_network(model, images[:1], images, target_macs=0.7)
    kept = count_cost(pruned, (3, 16, 16)).macs / count_cost(model, (3, 16, 16)).macs
    assert 0.98 * 0.7 <= kept <= 0.7


def test_missed_target_raises(monkeypatch):
    """A wrong prediction of the cost: the finished network is counted, not trusted."""
    monkeypatch.setattr(WidthCost, "macs", lambda self, kept: 100 * sum({**self.sizes, **kept}.values()))
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"--target-macs 0\.7: (the network keeps|no choice of widths keeps)"):
        prune_network(padded_network(), images[:1], images, target_macs=0.7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: (255 * x.clamp(0, 1)).to(torch.uint8),
            "images are torch.uint8, the network computes in torch.float32",
        ),
        (lambda x: x.half(), "images are torch.float16"),
        (lambda x: x.double(), "images are torch.float64"),
        (lambda x: [x, x.half()], "images are torch.float16"),  # the second batch
        (lambda x: x.where(x < 2, torch.nan), "infinities or nan"),
        (lambda x: x[:, :1], r"shape \(60, 1, 16, 16\), the example input has \(1, 3, 16, 16\)"),
        (lambda x: x[0], r"shape \(3, 16, 16\), the example input has"),
    ],
)
def test_images_of_another_type_raise(change, message):
    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=message):
        prune_network(padded_network(), images[:1], change(images), target_macs=0.7)


def test_network_without_groups_raises_with_reason():
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), torch.randn(20, 3, 16, 16)
    with pytest.raises(UserError, match="no channel group can be pruned: the network has none"):
        prune_network(model, images[:1], images, target_macs=0.5)


def test_first_of_two_outputs_is_used():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = padded_network()

        def forward(self, x):
            y = self.inner(x)
            return y, -y

    images = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    two = prune_network(Two(), images[:1], images, target_macs=0.7)
    one = prune_network(padded_network(), images[:1], images, target_macs=0.7)
    assert torch.equal(two(images)[0], one(images))


def test_pt_file_keeps_class_names(network, digits):
    content = to_dict(network, normalize=None, dataset="digits", classes=digits.classes)
    assert from_dict(content).checkpoint_header["classes"] == digits.classes
