"""The paper variant and the extended one: as methods of ``compare`` and as options of ``prune_model.py``."""

import math

import pytest
import torch
from decore_helpers import trained_resnet

from common.checkpoint import load_model, save_model
from common.methods import installed_methods
from common.models import create_model
from common.runs import open_stage, read_json
from common.settings import parse
from common.testing import run_method, write_image_folder
from common.testing.limits import check_limits_obeyed
from common.trained_model import read_trained_model
from common.training import TrainOptions
from decore import method
from decore.policy_options import DecoreOptions, differences
from decore.settings import PruneModel, main_prune

DENSE_MACS = 40_551_040
RECIPE = TrainOptions(epochs=1, batch_size=32, learning_rate=0.2, label_smoothing=0.1, warmup_epochs=0.5)


@pytest.fixture
def short(monkeypatch):
    """Shorten the policy phases."""
    monkeypatch.setattr("decore.method.JOINT_STEPS", 4)
    monkeypatch.setattr("decore.method.JOINT_EPOCHS", 2)
    monkeypatch.setattr("decore.method.EXAMPLES_SEEN", 640)


@pytest.mark.parametrize("variant", ["paper", "extended"])
def test_variant_is_an_entry_point_and_meets_target(variant, tmp_path, short):
    trained = trained_resnet(train=64)
    save_model(tmp_path / "net.safetensors", trained.model)
    found = installed_methods()["decore" if variant == "paper" else "decore_extended"]
    assert found.variant == variant and found.label == f"DECORE ({variant})"
    assert found.axis == "macs" and found.trains and found.weights == "inherited"
    start = read_trained_model(tmp_path / "net.safetensors", trained.data)
    metrics = run_method(found, start, 0.7, tmp_path / "run", recipe=RECIPE, seed=1)
    assert 0.98 * 0.7 <= metrics["compressed"]["macs"] / DENSE_MACS <= 0.7
    file = tmp_path / "run" / metrics["file"]
    before = file.stat().st_mtime_ns
    assert run_method(found, start, 0.7, tmp_path / "run", recipe=RECIPE, seed=1) == metrics
    assert file.stat().st_mtime_ns == before
    dense, after = (
        load_model(tmp_path / "net.safetensors"),
        load_model(tmp_path / "run" / "policy" / "model.safetensors"),
    )
    frozen = all(torch.equal(after.state_dict()[name], tensor) for name, tensor in dense.state_dict().items())
    assert frozen == (variant == "extended")  # the paper trains agents and network jointly


def test_one_variant_is_the_default_of_compare():
    assert [method.METHOD.default, method.EXTENDED.default] == [False, True]
    assert (
        "p < 0.5" in method.METHOD.note
        and "shortened" in method.METHOD.note
        and method.EXTENDED.note.startswith("differs from the paper: ")
    )


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "joint"),
    [(1297, 64, 2, 33), (50_000, 128, 15, 98), (50_000, 256, 40, 260), (50_000, 256, 0, 4)],
)
def test_joint_training_has_ratio_and_steps_of_paper(images, batch_size, epochs, joint, tmp_path, monkeypatch):
    start = trained_resnet(train=20)
    monkeypatch.setattr(type(start.data.train), "__len__", lambda self: images)
    stage = open_stage(tmp_path, "test", {}, recipe=TrainOptions(epochs=epochs, batch_size=batch_size), seed=3)
    options = method.paper_options(start, stage)
    assert options.policy_recipe.epochs == joint and joint * math.ceil(images / batch_size) >= 690
    assert not differences(options.identity()) and options.seed == 3


def test_paper_options_are_those_of_paper(tmp_path):
    stage = open_stage(tmp_path, "test", {}, recipe=RECIPE)
    options = method.paper_options(trained_resnet(train=20), stage)
    agents = options.policy
    assert (agents.learning_rate, agents.frozen, options.agent_init, options.threshold) == (0.01, False, 6.9, 0.5)
    assert (options.bn_images, options.distill, options.policy_images) == (0, 0.0, None)
    joint = options.policy_recipe
    assert (joint.learning_rate, joint.schedule, joint.warmup_epochs, joint.augment) == (0.01, "constant", 0.0, True)


def test_defaults_of_prune_model_are_paper_variant():
    options = parse(PruneModel, []).decore_options(50.0)
    assert differences(options.identity()) == []
    assert options == DecoreOptions(policy_recipe=options.policy_recipe, recipe=options.recipe)
    assert options.policy_recipe.batch_size == 256


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--freeze", "frozen"),
        ("--penalty auto", "fitted penalty"),
        ("--agents-learning-rate 0.1", "agents' learning rate 0.1"),
        ("--agent-init 4", "initial weight 4"),
        ("--reward-topk 5", "top-5 reward"),
        ("--reward-by-macs", "reward by MACs"),
        ("--reward-baseline", "reward baseline"),
        ("--entropy 0.01", "entropy"),
        ("--threshold 0.9", "threshold 0.9"),
        ("--round-to 8", "widths in multiples of 8"),
        ("--bn-images 2000", "batch norm recalibrated"),
        ("--distill 0.9", "distilled"),
    ],
)
def test_option_that_changes_the_method_is_a_difference(words, text):
    settings = parse(PruneModel, words.split())
    assert differences(settings.decore_options(settings.penalty[0]).identity()) == [text]


@pytest.mark.parametrize(
    "words", ["--epochs 30", "--batch-size 64", "--target-macs 0.5", "--policy-images 100", "--no-augment"]
)
def test_other_options_are_no_difference(words):
    assert differences(parse(PruneModel, words.split()).decore_options(50.0).identity()) == []


@pytest.mark.parametrize(("more", "variant"), [([], "paper"), (["--freeze"], "extended")])
def test_run_records_its_variant(more, variant, tmp_path, capsys):
    write_image_folder(tmp_path / "images", train=4, test=2)
    save_model(tmp_path / "net.safetensors", create_model("resnet20", num_classes=2))
    words = f"--checkpoint {tmp_path}/net.safetensors --dataset folder:{tmp_path}/images --epochs 2 --policy-epochs 1"
    words += f" --batch-size 4 --no-latency --device cpu --saved-dir {tmp_path}/runs"
    assert main_prune([*words.split(), *more]) == 0
    assert read_json(tmp_path / "runs" / "resnet20-50" / "metrics.json")["variant"] == variant
    assert ("the paper's method" in capsys.readouterr().out) == (variant == "paper")


@pytest.mark.parametrize("variant", [method.METHOD, method.EXTENDED], ids=lambda one: one.variant)
def test_variant_obeys_limits_and_meets_target(variant, tmp_path, monkeypatch):
    monkeypatch.setattr("decore.method.JOINT_STEPS", 4)
    monkeypatch.setattr("decore.method.EXAMPLES_SEEN", 640)
    check_limits_obeyed(variant, tmp_path)
