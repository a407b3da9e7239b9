"""Latency as a target: measured layers, predicted networks, and decisions that are measured."""

import copy
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common import pipeline
from common.channels import channel_groups, keep_channels, top_channels
from common.cost import WidthCost, count_cost
from common.data import load_dataset
from common.errors import UserError
from common.formats import load_network
from common.latency_target import meet, predict, table
from common.latency_target.meet import decide_for_latency, next_aim, widths_of
from common.latency_target.predict import WidthLatency, predict_latency
from common.latency_target.table import Interpolation, LatencyTable, LayerForm, grid, layer_form, levels
from common.limits import Limits
from common.methods import Decision, Method
from common.models import create_model
from common.runs import LATENCY_TARGET, open_stage
from common.target import Target, only_target, uniform_widths
from common.testing.fixed_latency import take_macs_for_latency
from common.timing import CONTROL, Timing
from common.trained_model import TrainedModel

SHAPE = (3, 32, 32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_model("resnet20").eval()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(table.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clock(monkeypatch):
    """Times in place of measured ones: a layer takes 1 ns per MAC, a network 2 ns per MAC and 3 ns per output of a layer."""

    def of_layers(calls, reference, **kwargs):
        series = {}
        for name in calls:
            inputs, outputs = map(int, name.split("x"))
            series[name] = [1e-9 * inputs * outputs] * 5
        return Timing({**series, CONTROL: series[reference]}, reference, others=0.0)

    monkeypatch.setattr(table, "time_calls", of_layers)


def test_levels_are_multiples_of_eight_and_the_full_width():
    assert levels(16) == [8, 16] and levels(6) == [6] and levels(20) == [8, 16, 20]
    assert len(levels(512)) <= 8 and levels(512)[0] == 8 and levels(512)[-1] == 512
    assert all(width % 8 == 0 for width in levels(960)[:-1])
    assert levels(96, multiple=3) == [24, 48, 72, 96]


def test_interpolation_is_exact_between_measured_widths_of_a_bilinear_function():
    widths = [8, 16, 24, 64]
    found = Interpolation(widths, widths, [[3.0 * i * o + i for o in widths] for i in widths])
    for i, o in ((8, 8), (16, 40), (13, 21), (64, 64), (30, 9)):
        assert found(i, o) == pytest.approx(3.0 * i * o + i)
    assert found(3, 64) == found(8, 64) and found(64, 100) == found(64, 64)


def test_layers_are_measured_once_and_kept_in_a_file(cache, clock, monkeypatch):
    form = LayerForm("conv", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    first = LatencyTable(4)
    first.measure({form: (16, 24)})
    assert set(first.times[form.name]) == {(i, o) for i in (8, 16) for o in (8, 16, 24)}
    written = json.loads(first.file.read_text())
    assert first.file.parent == cache and written["machine"]["batch_size"] == 4
    monkeypatch.setattr(table, "time_calls", None)  # nothing is measured again
    again = LatencyTable(4)
    again.measure({form: (16, 24)})
    assert again.lookup(form, (16, 24))(16, 20) == pytest.approx(1e-9 * 16 * 20)
    assert LatencyTable(8).file != first.file
    in_onnxruntime = LatencyTable(4, runtime="onnxruntime")
    assert in_onnxruntime.file != first.file and not in_onnxruntime.times
    assert str(in_onnxruntime.machine["runtime"]).startswith("onnxruntime 1.")
    first.file.write_text('{"times": {"x": {"8": 1}}}')
    with pytest.raises(UserError, match="delete the file"):
        LatencyTable(4)


def test_forms_of_layers(network):
    calls = {call.name: call for call in predict.trace_calls(network, SHAPE)}
    form = layer_form(calls["layer2.0.conv1"])
    assert form == LayerForm("conv", (32, 32), (3, 3), (2, 2), (1, 1), (1, 1))
    assert form.build(16, 32)(form.example(2, 16)).shape == (2, 32, 16, 16)
    assert list(grid(LayerForm("depthwise", (4, 4), (3, 3)), 16, 16)) == [(8, 8), (16, 16)]
    depthwise = LayerForm("depthwise", (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    assert depthwise.build(8, 8).groups == 8
    linear = layer_form(calls["linear"])
    assert linear == LayerForm("linear", (), bias=True) and linear.build(64, 10)(linear.example(3, 64)).shape == (3, 10)
    assert layer_form(SimpleNamespace(module=nn.Conv1d(3, 4, 3), input_shape=(1, 3, 9))) is None


def test_prediction_is_fitted_to_whole_networks(network, cache, clock, monkeypatch):
    """Networks that take 1 ms, 5 ns per output of a layer and twice the time of their layers are predicted exactly."""
    groups = channel_groups(network, torch.zeros(1, *SHAPE))
    made: list[WidthLatency] = []

    class Recorded(WidthLatency):
        def __post_init__(self) -> None:
            made.append(self)
            super().__post_init__()

    def of_networks(model, shape, groups, networks, table, seconds=1.0):
        times = [np.dot((0.001, 5e-3, 2.0), made[0].features(widths)) for widths in networks]
        return Timing({str(i): [seconds] * 5 for i, seconds in enumerate(times)}, "0", others=0.0)

    monkeypatch.setattr(predict, "WidthLatency", Recorded)
    monkeypatch.setattr(predict, "time_networks", of_networks)
    found = predict_latency(network, SHAPE, groups, LatencyTable(1))
    assert found.weights == pytest.approx((0.001, 5e-3, 2.0), rel=1e-3) and found.error < 1e-4
    narrow = {group.name: group.size // 2 for group in groups}
    cost = WidthCost(network, SHAPE, groups)
    seconds = sum(
        1e-9 * float(np.prod([max(8, c) for c in layer.channels({**cost.sizes, **narrow})]))
        for name, layer in cost.by_layer.items()
    )
    assert found.features(narrow)[2] == pytest.approx(seconds, rel=0.02)  # the first layer reads three channels
    assert found.of({}) == found.dense and found.of(narrow) < 0.75 * found.dense


@pytest.fixture
def start(network, tmp_path, monkeypatch):
    """A trained network, as far as it is looked at, whose time is half constant and half in proportion to the MACs."""
    groups = channel_groups(network, torch.zeros(1, *SHAPE))
    cost = WidthCost(network, SHAPE, groups)
    monkeypatch.setattr(meet, "known_step", lambda *args: 8)
    attempts = []

    def predicted(model, shape, groups, table, limits, fitted=None):
        if fitted is None:
            attempts.append(limits.round_to)
        own = WidthCost(model, shape, groups)
        of = lambda kept: 0.3 + 0.7 * own.macs(kept) / cost.dense  # noqa: E731
        return SimpleNamespace(of=of, dense=of({}), error=0.01, timed=6, fitted={})

    def measured(dense, model, shape, target, device):
        ratio = 0.5 + 0.5 * cost.macs(widths_of(model, groups)) / cost.dense
        series = {"dense": [1.0] * 9, "network": [ratio] * 9, CONTROL: [1.0] * 9}
        return Timing(series, "dense", others=0.0)

    monkeypatch.setattr(meet, "predict_latency", predicted)
    monkeypatch.setattr(meet, "time_against", measured)

    class Start(SimpleNamespace):
        def for_latency(self, latency, limits):
            return Start(**{**vars(self), "latency": latency, "limits": limits})

    data = SimpleNamespace(input_shape=SHAPE)
    return Start(
        model=network,
        data=data,
        device=torch.device("cpu"),
        all_groups=groups,
        limits=Limits(),
        attempts=attempts,
        reference=None,
    )


@pytest.fixture
def stage(tmp_path):
    from common.runs import Stage

    lines: list[str] = []
    return Stage(tmp_path / "run", "common", {}, log=lines.append), lines


def uniform(start, target, stage):
    widths = uniform_widths(start.all_groups, start.latency, target, start.limits)
    groups = {group.name: group for group in start.all_groups}
    return Decision(
        {n: top_channels([0] * groups[n].size, w, conv_groups=groups[n].conv_groups) for n, w in widths.items()}
    )


def by_macs(start, target, stage):
    """A method that knows MACs only."""
    cost = WidthCost(start.model, SHAPE, start.all_groups)
    return uniform(replace_latency(start, cost), target, stage)


def replace_latency(start, cost):
    return type(start)(**{**vars(start), "latency": cost})


def build(start, decision):
    return keep_channels(start.model, torch.zeros(1, *SHAPE), decision.kept)


@pytest.mark.parametrize("decide", [uniform, by_macs])
@pytest.mark.parametrize("fraction", [0.9, 0.7])
def test_target_is_met_as_measured_although_the_prediction_is_wrong(decide, fraction, start, stage, cache):
    met = decide_for_latency(decide, build, start, Target(fraction, "latency", 0.05, 4), stage[0])
    assert 0.95 * fraction <= met.report["ratio"] <= fraction
    assert met.report["batch_size"] == 4 and 1 < met.report["attempts"] <= meet.ATTEMPTS
    assert all(len(kept) % met.report["round_to"] == 0 for kept in met.decision.kept.values())
    assert any("predicted" in line for line in stage[1])


def test_unreachable_target_names_the_nearest_and_finer_widths_are_tried(start, stage, cache, monkeypatch):
    message = r"--target-latency 0.3: no network .* keeps 0.285 to 0.3 of the predicted latency; the nearest keep 0.3"
    with pytest.raises(UserError, match=message):
        decide_for_latency(uniform, build, start, Target(0.3, "latency", 0.05), stage[0])
    assert start.attempts == [8, 1]
    monkeypatch.setattr(meet, "ATTEMPTS", 1)
    message = r"--target-latency 0.7: .*as measured, keeps 0.665 to 0.7 of the latency; the nearest keep 0.7[67]"
    with pytest.raises(UserError, match=message):
        decide_for_latency(uniform, build, start, Target(0.7, "latency", 0.05), stage[0])


def test_next_aim_follows_the_line_through_the_last_two_networks():
    assert next_aim([(0.6, 0.66)], 0.55) == pytest.approx(0.5)
    assert next_aim([(0.6, 0.8), (0.4, 0.7)], 0.6) == pytest.approx(0.2)
    assert next_aim([(0.6, 0.8), (0.61, 0.7)], 0.6) == pytest.approx(0.61 * 0.6 / 0.7)  # noise: the line falls
    assert next_aim([(0.6, 0.8), (0.4, 0.79)], 0.1) == meet.SMALLEST


def test_resumed_run_times_nothing_again_and_another_machine_does(start, stage, cache, monkeypatch):
    target, folder = Target(0.7, "latency", 0.05, 4), stage[0].folder
    first = decide_for_latency(uniform, build, start, target, stage[0])
    written = json.loads((folder / LATENCY_TARGET).read_text())
    assert [name for name in written["measured"] if name.startswith("attempt")] == [
        f"attempt-8-{i + 1}" for i in range(first.report["attempts"])
    ]
    assert not list(folder.glob("widths-*"))  # the method has left nothing there
    calls, measured = [], meet.time_against
    monkeypatch.setattr(meet, "time_against", lambda *args: calls.append(args) or measured(*args))
    again = decide_for_latency(uniform, build, start, target, stage[0])
    assert not calls and again.report == first.report and again.decision == first.decision
    written["measured"]["attempt-8-1"]["about"]["conv1"] += 1  # of another network
    (folder / LATENCY_TARGET).write_text(json.dumps(written))
    assert decide_for_latency(uniform, build, start, target, stage[0]).report == first.report and len(calls) == 1
    written["machine"]["threads"] = 99
    (folder / LATENCY_TARGET).write_text(json.dumps(written))
    decide_for_latency(uniform, build, start, target, stage[0])
    assert len(calls) == 1 + first.report["attempts"]


def test_target_is_a_fraction_of_the_reference(start, stage, cache):
    """A network that takes 80 % of its reference's time is compressed to 70 % of that."""
    wide = uniform_widths(start.all_groups, WidthCost(start.model, SHAPE, start.all_groups), Target(0.6))
    half = keep_channels(start.model, torch.zeros(1, *SHAPE), {name: range(width) for name, width in wide.items()})
    groups = channel_groups(half, torch.zeros(1, *SHAPE))
    smaller = type(start)(**{**vars(start), "model": half, "all_groups": groups, "reference": start})
    met = decide_for_latency(uniform, build, smaller, Target(0.7, "latency", 0.05), stage[0])
    cost = WidthCost(start.model, SHAPE, start.all_groups)
    found = 0.5 + 0.5 * count_cost(met.network, SHAPE).macs / cost.dense
    assert met.report["ratio"] == pytest.approx(found, abs=1e-4) and 0.95 * 0.7 <= found <= 0.7
    with pytest.raises(
        UserError, match=r"--target-latency 0.9: .* takes 0.[78]\d+ of the dense network's time already"
    ):
        decide_for_latency(uniform, build, smaller, Target(0.9, "latency", 0.05), stage[0])


def test_force_deletes_what_attempts_have_left(start, stage, cache):
    left = stage[0].folder / "widths-8" / "attempt-1" / "search"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    decide_for_latency(uniform, build, start, Target(0.7, "latency", 0.05), stage[0])
    assert left.is_dir()
    decide_for_latency(uniform, build, start, Target(0.7, "latency", 0.05), replace(stage[0], force=True))
    assert not left.exists()


def test_network_is_built_once_recalibrated_and_trained_when_the_target_is_met(tmp_path, network, monkeypatch):
    data = load_dataset("digits")
    data = replace(data, train=data.train.subset(torch.arange(64)), test=data.test.subset(torch.arange(16)))
    dense = TrainedModel("resnet20", network, data)
    take_macs_for_latency(monkeypatch, measured=lambda macs: 0.2 + 0.8 * macs)
    built, trained, build = [], [], pipeline.build_network
    monkeypatch.setattr(pipeline, "build_network", lambda *args: built.append(args) or build(*args))
    assert (network.bn1.running_mean == 0).all()

    def decide(start, target, stage, trains=False):
        decision = uniform(start, target, stage)
        if trains:
            model = keep_channels(start.model, start.example, decision.kept)
            return Decision(model=model, trained=lambda: trained.append(model) or copy.deepcopy(model))
        return replace(decision, recalibrate=iter([batch.images for batch in data.train.batches(32)]))

    target = Target(0.7, "latency", 0.05)
    stage = open_stage(tmp_path / "once", "compare", {}, log=lambda line: None)
    metrics = pipeline.compress(Method("m", decide), dense, target, stage, latency=False)
    assert len(built) == metrics["latency_target"]["attempts"] > 1
    small = load_network(tmp_path / "once" / metrics["file"])
    assert (small.bn1.running_mean != 0).all()  # recalibrated, with images that can be read only once
    stage = open_stage(tmp_path / "trained", "compare", {}, log=lambda line: None)
    metrics = pipeline.compress(Method("m", partial(decide, trains=True)), dense, target, stage, latency=False)
    assert len(trained) == 1 < metrics["latency_target"]["attempts"]


def test_one_target_of_three():
    assert only_target({"macs": None, "latency": 0.6}, batch_size=8) == Target(0.6, "latency", 0.05, 8)
    assert only_target({"macs": 0.5, "bytes": None}).tolerance == 0.1
    with pytest.raises(UserError, match="one of macs and latency|target_macs and target_latency"):
        only_target({"macs": 0.5, "latency": 0.6})
    words = lambda name: "--" + name.replace("_", "-")  # noqa: E731
    with pytest.raises(UserError, match="--target-macs, --target-bytes and --target-latency"):
        only_target({"macs": 0.1, "bytes": 0.2, "latency": None}, option=words)
    assert only_target({"macs": None, "bytes": None, "latency": None}) is None
    assert replace(Target(0.5, "latency"), asked=0.52).option == "--target-latency 0.52"


def test_step_that_is_fast_per_mac_is_favored(network, cache, monkeypatch):
    """Widths are rounded up to multiples of 16 by this machine, so that any other width costs as much."""
    groups = channel_groups(network, torch.zeros(1, *SHAPE))
    cost = WidthCost(network, SHAPE, groups)

    def rounded(model, shape, groups, networks, table, seconds=1.0):
        up = [{name: -(-width // 16) * 16 for name, width in widths.items()} for widths in networks]
        return Timing({str(i): [cost.macs(widths) * 1e-9] * 5 for i, widths in enumerate(up)}, "0", others=0.0)

    monkeypatch.setattr(meet, "time_networks", rounded)
    assert meet.favored_step(network, SHAPE, groups, LatencyTable(1), Limits()) == 16
    assert meet.known_step(network, SHAPE, groups, LatencyTable(1), Limits()) == 16
    monkeypatch.setattr(
        meet,
        "time_networks",
        lambda m, s, g, networks, t, seconds=1.0: Timing(
            {str(i): [cost.macs(w) * 1e-9] * 5 for i, w in enumerate(networks)}, "0", others=0.0
        ),
    )
    assert meet.favored_step(network, SHAPE, groups, LatencyTable(1), Limits()) == 1
    assert (
        meet.known_step(network, SHAPE, groups, LatencyTable(1), Limits()) == 16
    )  # kept with the table, for this network
    assert meet.known_step(network, SHAPE, groups, LatencyTable(1), Limits(min_channels=2)) == 1
