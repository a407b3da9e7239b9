"""Every command of common uses all of its options, and check_options_honored detects unused ones."""

from dataclasses import replace

import pytest
import torch
from tensorflow_files import random_network, write_js
from test_common_results import TEXT
from torch import nn

from common import compress_command, convert, evaluate, export, fetch, latency, profile, sensitivity, show, train
from common.campaign.settings import main as campaign
from common.channels import __main__ as channels
from common.checkpoint import save_model
from common.data import load_dataset
from common.methods import Decision, Method
from common.models import create_model
from common.options import TrainingOptions, train_options
from common.paper import reach, reach_networks
from common.reporting import results
from common.reporting.benchmark import run_benchmark
from common.settings import command, flatten, option, section, settings
from common.target import uniform_widths
from common.testing import check_options_honored, command_names, write_image_folder
from common.testing.options_honored import watch

COMMANDS = {
    "Train": (
        train.main,
        "--arch lenet5 --weights {weights} --epochs 0 {data} --no-latency --out {out}/train",
        "--model test_common_options:tiny --epochs 0 {data} --no-latency --out {out}/own",
    ),
    "Compress": (
        compress_command.main,
        "--arch lenet5 --weights {weights} {data} --method first --target-macs 0.6 --train 1 --export {out}/small.pt2 "
        "--no-latency --out {out}/compress",
        "--model test_common_options:tiny --checkpoint {own} {data} --method halve --target-bytes 0.9 --unlabeled "
        "--no-latency --out {out}/halve",
    ),
    "Evaluate": (
        evaluate.main,
        "--arch lenet5 --weights {weights} {data} --no-latency --json {out}/metrics.json",
        "--model test_common_options:tiny --checkpoint {own} {data} --no-latency --amp",
    ),
    "Export": (
        export.main,
        "--checkpoint {own} --model test_common_options:tiny --format pt2 --out {out}/m.pt2 {data}",
    ),
    "Latency": (
        latency.main,
        "--arch lenet5 --target-macs 0.5 --round-to 1 --batch-size 1 --seconds 0.1 --json {out}/latency.json",
        "--checkpoint {network} --dense {network} --batch-size 1 --seconds 0.1",
        "--checkpoint {own} --model test_common_options:tiny --input-shape 3 32 32 --batch-size 1 --seconds 0.1",
    ),
    "Profile": (
        profile.main,
        "--arch lenet5 --target-macs 0.5 --round-to 1 --fold-batch-norm --batch-size 1 --seconds 0.1 --top 2 --json {out}/profile.json "
        "--plot {out}/profile.svg",
        "--checkpoint {network} --dense {network} --batch-size 1 --seconds 0.1",
        "--checkpoint {own} --model test_common_options:tiny --input-shape 3 32 32 --batch-size 1 --seconds 0.1",
    ),
    "MeasureSensitivity": (
        sensitivity.main,
        "--arch lenet5 --weights {weights} {data} --fractions 0.5 --json {out}/sensitivity.json --plot {out}/sensitivity.svg "
        "--ignored-layers fc1 --only conv1 conv2 --min-channels 2 --max-pruned 0.5 --round-to 2",
        "--model test_common_options:tiny --checkpoint {own} {data} --criterion random --seed 1 --part test",
    ),
    "Convert": (convert.main, "{js} --out {out}/converted.safetensors --classes {names}"),
    "Show": (
        show.main,
        "{network} --all",
        "{log} --plot {out}/log.png --columns train_loss --tensorboard {out}/board --format json",
        "{run} --sort top1 --reverse",
    ),
    "Channels": (channels.main, "--arch lenet5", "--model test_common_options:tiny --input-shape 3 32 32"),
    "Fetch": (fetch.main, "mnist --to {out}/mnist"),
    "Results": (results.main, "{readme} --tables test_common_options"),
    "Reach": (reach.main, "--only alexnet --out {out}/reach.json"),
    "Benchmark": (
        lambda argv: run_benchmark(lambda repeats: ({"a": [1.0] * repeats}, []), argv),
        "--json {out}/b.json",
    ),
}
CAMPAIGN = {
    "RunPlan": ("run {plan} --out {out}/campaign --quick", "run {plan} --out {out}/campaign --dry-run"),
    "Status": ("status {campaign}",),
    "Collect": ("collect {campaign} --to {out}/pieces",),
    "Merge": ("merge {out}/pieces/piece-1.zip --into {out}/merged",),
    "Tables": ("tables {campaign}",),
}
TABLES = {"speed": lambda: "fast", "speed.more": lambda: "faster"}


def uniform(start, target, stage):
    return Decision({name: range(count) for name, count in uniform_widths(start.groups, start.cost, target).items()})


def halve(start, target, stage):
    return Decision({group.name: range(group.size // 2) for group in start.groups}, smaller="for the test")


METHODS = {"first": Method("first channels", uniform), "halve": Method("half", halve, axis="bytes")}


def tiny(num_classes: int = 10):
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, num_classes))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {name in the commands above: path}."""
    root = tmp_path_factory.mktemp("files")
    data = write_image_folder(root / "images", classes=2, train=3, test=20)
    paths = {name: root / f"{name}.safetensors" for name in ("network", "own")} | {"weights": root / "weights.pth"}
    own, network = tiny(2), create_model("lenet5", num_classes=2, in_channels=3, image_size=32)
    bundle = load_dataset(f"folder:{data}")
    for name, model in (("own", own), ("network", network)):
        save_model(paths[name], model, normalize=(bundle.mean, bundle.std))
    torch.save(network.state_dict(), paths["weights"])
    (root / "README.md").write_text(TEXT)
    (root / "names.txt").write_text("cat\ndog\n")
    (root / "js").mkdir()
    js = write_js(root / "js", random_network("mobilenet_v1", classes=2, width_mult=1 / 16, tensorflow=True))
    (root / "run").mkdir()
    (root / "run" / "log.csv").write_text("epoch,train_loss\n1,2.5\n")
    (root / "run" / "metrics.json").write_text('{"schema": 1, "package": "common"}')
    (root / "plan.toml").write_text('[[job]]\nname = "a"\nrun = "python x.py --out {out}"\n')
    return {
        **paths,
        "data": f"--dataset folder:{data}",
        "js": js,
        "names": root / "names.txt",
        "readme": root / "README.md",
        "plan": root / "plan.toml",
        "campaign": root / "out" / "campaign",
        "out": root / "out",
        "run": root / "run",
        "log": root / "run" / "log.csv",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_command_uses_all_options(name, files, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda *arguments: [])
    monkeypatch.setattr("common.methods.installed_methods", lambda: METHODS)
    monkeypatch.setattr(reach, "find_spec", lambda library: True)
    monkeypatch.setattr(reach, "version", lambda library: None)
    failed = {"network": "alexnet", "common": {"error": "not run"}, "torch_pruning": {"error": "not run"}}
    monkeypatch.setattr(reach_networks, "measure_in_process", lambda *arguments: failed)
    main, *runs = COMMANDS[name]
    assert check_options_honored(main, [run.format(**files).split() for run in runs]) == name


def test_campaign_commands_use_all_options(files, monkeypatch):
    """The commands run in sequence, on a plan of one job that no worker runs."""

    def finish(runner):
        runner.begin()
        for name, identity in runner.identities.items():
            runner.folder.finish(name, {"identity": identity})

    monkeypatch.setattr("common.campaign.run.Runner.run", finish)
    for name, runs in CAMPAIGN.items():
        assert check_options_honored(campaign, [run.format(**files).split() for run in runs]) == name


def test_command_list_is_complete():
    assert command_names("common") == COMMANDS.keys() | CAMPAIGN.keys()


# ------------------------------------------------------------------------------------------- check_options_honored itself


@settings
class Shape:
    """Shape."""

    width: int = option(1, "width")
    depth: int = option(1, "depth")

    @property
    def area(self) -> int:
        return self.width * self.depth


@settings
class Build:
    """Build."""

    shape: Shape = section(Shape)
    training: TrainingOptions = section(TrainingOptions)
    color: str | None = option(None, "accepted; everything is white")
    size: int = option(1, "size")

    def __post_init__(self) -> None:
        assert self.size > 0 and self.color != "red" and self.shape.area > 0


def building(body):
    return lambda argv: command(Build, body, argv, "build")


def everything(given: Build) -> None:
    assert isinstance(given, Build) and isinstance(given.shape, Shape)
    _ = given.shape.area, given.size, train_options(given.training)


def test_read_options_pass():
    promised = {"color": "the original code's"}
    assert check_options_honored(building(everything), [[]], promised) == "Build"
    modes = building(lambda given: everything(given) if given.size > 1 else None)
    assert check_options_honored(modes, [[], ["--size", "2"]], promised) == "Build"


@pytest.mark.parametrize(
    ("body", "promised", "message"),
    [
        (everything, {}, "never read: color$"),
        (
            lambda given: (everything(given), flatten(given), vars(given), replace(given, size=2)),
            {},
            "never read: color$",
        ),
        (
            lambda given: (train_options(given.training, epochs=1, gamma=0.5), given.size, given.shape.width),
            {"color": ""},
            "never read: depth, epochs, gamma$",
        ),
        (lambda given: (everything(given), given.color), {"color": ""}, "read or removed: color$"),
        (everything, {"color": "", "shade": ""}, "read or removed: shade$"),
        (
            lambda given: train_options(given.training),
            {"color": "", "width": "", "depth": "", "size": ""},
            "only accepted: depth, size, width$",
        ),
    ],
)
def test_unread_options_raise(body, promised, message):
    with pytest.raises(AssertionError, match=message):
        check_options_honored(building(body), [[]], promised)


def test_failing_run_raises():
    with pytest.raises(AssertionError, match="exit status 2"):
        check_options_honored(building(everything), [["--size", "x"]])


def test_copy_of_watched_settings_is_watched():
    read: set[str] = set()
    copy = replace(watch(Build(), read), size=3)
    assert read == set() and isinstance(copy, Build) and copy == replace(copy)
    assert copy.size == 3 and copy.shape.area == 1
    assert read == {"size", "width", "depth"}
