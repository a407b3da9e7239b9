"""Profile: seconds per layer on a clock that only the layers advance, work per layer, roofline, tables, plot, folded batch norm."""

import json
import time

import pytest
import torch
import torch.nn.functional as F
from test_common_timing import Clock
from torch import nn

from common import profile
from common.checkpoint import save_model
from common.cost import count_cost
from common.errors import UserError
from common.fold import fold_batch_norm
from common.models import create_model
from common.profiling import roofline
from common.profiling.plot import plot_layers
from common.profiling.report import explain, kind_table, layer_speed, layer_table, profile_record, slowest_layers
from common.profiling.roofline import ARITHMETIC, MEMORY, Machine, measure_machine
from common.profiling.spans import observed
from common.profiling.times import NetworkTimes, time_layers
from common.profiling.work import (
    ACTIVATION,
    ADDITION,
    BETWEEN,
    CONVOLUTION,
    LINEAR,
    NORMALIZATION,
    OTHER,
    LayerWork,
    layer_work,
)
from common.timed_networks import uniform_network
from common.timing import Timing

MACHINE = Machine(gflops=100.0, gbytes=10.0)  # memory bounds layers below 10 FLOP/byte


class Wait(nn.Module):
    """Return its input after some seconds of a clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.now += self.seconds
        return x


class Block(nn.Module):
    """A layer of a, one of 2a seconds, called twice, a function, and seconds in between."""

    def __init__(self, clock: Clock, a: float, between: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = Wait(clock, a), Wait(clock, 2 * a)
        self.clock, self.between = clock, between

    def forward(self, x):
        x = self.second(self.second(self.first(x)))
        self.clock.now += self.between
        return F.relu(x)


class Network(nn.Module):
    """A block within a network, and an addition outside it."""

    def __init__(self, clock: Clock, a: float, between: float = 0.0) -> None:
        super().__init__()
        self.block = Block(clock, a, between)

    def forward(self, x):
        return x + self.block(x)


class Residual(nn.Module):
    """Convolution and batch norm, twice, with an addition, and a convolution whose output is also used before its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + x
        shared = self.conv3(x)
        x = self.bn3(shared) + shared
        return self.linear(x.mean((2, 3)))


def times_of(seconds, work, between=0.0):
    return NetworkTimes(work, seconds, between, sum(seconds.values()) + between, 0.0)


def convolution(macs, moved):
    return LayerWork(CONVOLUTION, "", macs, 2 * macs, moved)


def test_layers_and_what_is_between_them_have_their_own_seconds(monkeypatch):
    """Of 1.3 seconds: 0.2 in `first`, twice 0.4 in `second`, 0.3 between layers; half of it in the pruned network."""
    clock = Clock(monkeypatch)
    models = {"dense": Network(clock, 0.2, 0.3), "pruned": Network(clock, 0.1, 0.15)}
    found, timing = time_layers(models, (2,), batch_size=1, seconds=60)
    dense, pruned = found["dense"], found["pruned"]
    assert dense.seconds["block.first"] == pytest.approx(0.2) and dense.seconds["block.second"] == pytest.approx(0.8)
    assert dense.seconds["block: relu"] == dense.seconds["add"] == 0 and len(dense.seconds) == 4
    assert dense.between == pytest.approx(0.3) and dense.total == pytest.approx(1.3) == dense.whole
    assert dense.hooks == pytest.approx(0.0) and dense.work["block.second"].calls == 2
    assert pruned.kinds() == pytest.approx({OTHER: 0.5, BETWEEN: 0.15})
    assert timing.ratio("pruned").value == pytest.approx(0.5) and set(found) == {"dense", "pruned"}


def test_passes_of_networks_alternate(monkeypatch):
    clock, order = Clock(monkeypatch), []
    models = {"dense": Network(clock, 0.2), "pruned": Network(clock, 0.1)}
    for name, model in models.items():
        model.register_forward_pre_hook(lambda module, inputs, name=name: order.append(name))
    time_layers(models, (2,), batch_size=1, seconds=60)
    order = order[2:]  # of the work
    rounds = [order[i : i + 5] for i in range(0, len(order), 5)]  # each with and without hooks, and the control
    assert len(rounds) >= 5 and all(sorted(one) == ["dense"] * 3 + ["pruned"] * 2 for one in rounds)


def test_warm_up_is_not_in_the_medians(monkeypatch):
    """The passes become faster for twelve rounds, then take 0.1 seconds, in at least five rounds."""
    clock = Clock(monkeypatch)
    slow = iter([2 * 0.9 ** (i // 3) for i in range(36)])
    model = nn.Sequential(Wait(clock, 0.0))
    model[0].forward = lambda x: (setattr(clock, "now", clock.now + next(slow, 0.1)), x)[1]
    found, timing = time_layers({"dense": model}, (2,), batch_size=1, seconds=600)
    assert len(timing.series["dense"]) < 12
    assert found["dense"].seconds["0"] == pytest.approx(0.1) and found["dense"].whole == pytest.approx(0.1)


def test_time_of_the_hooks_is_not_between_layers(monkeypatch):
    """Every reading of the clock takes a second: a layer of 0 seconds has one, and the hooks around it have the other."""
    now = iter(range(1, 10**9))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    clock = Clock.__new__(Clock)
    clock.now = 0.0
    found, _ = time_layers({"dense": Network(clock, 0.0)}, (2,), batch_size=1, seconds=600)
    assert found["dense"].seconds["block.first"] == 1.0 and found["dense"].seconds["block.second"] == 2.0
    assert found["dense"].between < 1.1 and found["dense"].hooks > 4.0


def test_layer_with_a_part_is_one_layer():
    """The weight of the convolution is computed by a module within it."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU())
    assert list(layer_work(model.eval(), torch.zeros(1, 3, 8, 8))) == ["0", "1"]


def test_hooks_are_removed():
    model = create_model("resnet20").eval()
    with observed(model, lambda: None, lambda *_: None):
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_work_of_layers_is_counted():
    """A 3x3 convolution of a batch of 2, 3 to 6 channels, 8x8 pixels: 2*64*27*6 MACs; inputs, weights and outputs are read or written."""
    found = layer_work(Residual().eval(), torch.zeros(2, 3, 8, 8))
    assert list(found)[:5] == ["conv1", "bn1", "relu", "conv2", "bn2"]
    assert found["conv1"].macs == 2 * 64 * 27 * 6 and found["conv1"].flops == 2 * found["conv1"].macs
    assert found["conv1"].bytes == 4 * (2 * 3 * 64 + 27 * 6 + 2 * 6 * 64) and found["conv1"].widths == "3 x 6"
    assert found["relu"] == LayerWork(ACTIVATION, "", 0, 2 * 6 * 64, 2 * 4 * 2 * 6 * 64)
    assert found["add"] == LayerWork(ADDITION, "", 0, 2 * 2 * 6 * 64, 2 * 3 * 4 * 2 * 6 * 64, calls=2)
    assert found["bn1"].kind == NORMALIZATION and found["linear"].kind == LINEAR and found["linear"].macs == 2 * 24


def test_views_move_nothing():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()  # with it, the module is a block, whose functions are not a layer's

        def forward(self, x):
            return self.layer(x).flatten(1).clone()

    found = layer_work(nn.Sequential(Views()), torch.zeros(2, 3, 4))
    assert list(found) == ["0.layer", "0: flatten", "0: clone"]
    assert found["0: flatten"].bytes == 0 and found["0: clone"].bytes == 2 * 4 * 24
    assert layer_speed(found["0: flatten"], 1.0, MACHINE).bound == ""


def test_macs_are_those_of_the_network():
    model = create_model("lenet5").eval()
    work = layer_work(model, torch.zeros(3, 1, 28, 28))
    assert sum(one.macs for one in work.values()) == 3 * count_cost(model, (1, 28, 28)).macs


def test_roofline_bounds_by_memory_below_its_balance():
    """8 FLOP/byte: at most 80 GFLOP/s; 20 FLOP/byte: at most 100."""
    assert MACHINE.balance == 10 and MACHINE.bound(8) == MEMORY and MACHINE.bound(20) == ARITHMETIC
    assert MACHINE.attainable(8) == 80 and MACHINE.attainable(20) == 100
    speed = layer_speed(convolution(4 * 10**9, 10**9), 0.2, MACHINE)
    assert (speed.bound, speed.gflops) == (MEMORY, 40) and speed.reached == 0.5
    assert layer_speed(convolution(10**10, 10**9), 0.2, MACHINE).reached == 1.0


def test_machine_is_measured_by_the_fastest_repeat(monkeypatch):
    """The matrix product takes 4, 2 and 4 ms, the copy 1 ms."""
    monkeypatch.setattr(roofline, "SIZE", 100)
    monkeypatch.setattr(roofline, "COPIED", 4000)
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    readings, now = iter([0.004, 0.002, 0.004, 0.001, 0.001, 0.001]), [0.0, False]

    def read():
        now[0] += next(readings) if now[1] else 0.0
        now[1] = not now[1]
        return now[0]

    monkeypatch.setattr(roofline.time, "perf_counter", read)
    found = measure_machine()
    assert found.gflops == pytest.approx(2 * 100**3 / 0.002 / 1e9)
    assert found.gbytes == pytest.approx(8000 / 0.001 / 1e9)


def example():
    """Convolutions of 6 and 2 ms that save three quarters and half of their MACs and a third and half of their time, and a ReLU."""
    relu = LayerWork(ACTIVATION, "", 0, 10**6, 8 * 10**6, calls=3)
    dense = {"a": convolution(2 * 10**8, 10**7), "b": convolution(10**8, 10**8), "relu": relu}
    pruned = {"a": convolution(5 * 10**7, 10**7), "b": convolution(5 * 10**7, 5 * 10**7), "relu": relu}
    return (
        times_of({"a": 0.006, "b": 0.002, "relu": 0.002}, dense, 0.001),
        times_of({"a": 0.004, "b": 0.001, "relu": 0.002}, pruned, 0.001),
    )


def test_table_has_the_slowest_layers_and_the_rest():
    dense, pruned = example()
    lines = layer_table(dense, pruned, MACHINE, batch_size=10, top=1).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0] == [
        "a",
        "",
        "20.00 / 5.00",
        "6.000 / 4.000",
        "67",
        "66.7 / 25.0",
        "40.00 / 10.00",
        ARITHMETIC,
        "67 / 25",
    ]
    assert cells[1][:5] == ["2 others", "", "", "4.000 / 3.000", "75"]
    assert cells[2][:5] == [BETWEEN, "", "", "1.000 / 1.000", "100"] and len(cells) == 3
    assert slowest_layers(dense, 2) == ["a", "b"]
    all_rows = layer_table(dense, pruned, MACHINE, batch_size=10, top=20)
    assert "others" not in all_rows and "relu, 3 calls" in all_rows and "1.00 / 1.00" not in all_rows


def test_layer_that_the_pruned_network_lacks_has_the_dense_times_only():
    dense, pruned = example()
    without = times_of({"a": 0.004}, {"a": pruned.work["a"]})
    row = layer_table(dense, without, MACHINE, batch_size=10, top=2).splitlines()[3]
    assert [cell.strip() for cell in row.split("|")[1:6]] == ["b", "", "10.00", "2.000 /", ""]


def test_kinds_add_up():
    dense, pruned = example()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in kind_table(dense, pruned).splitlines()[2:]]
    assert rows[0] == ["convolution", "8.00", "73", "5.00", "62", "62", "67"]
    assert rows[1] == ["activation", "2.00", "18", "2.00", "25", "100", ""]
    assert rows[-1] == ["all", "11.00", "100", "8.00", "100", "73", "67"]


def test_sentences_account_for_what_is_missing():
    """Two thirds of the MACs, 3 of 11 ms: 4.33 ms are missing, 2.33 of them in convolutions, 1.33 in ReLUs, 0.67 between layers."""
    text = " ".join(explain(*example(), MACHINE, 8 / 11))
    assert "saves 66.7 % of the MACs and 27.3 % of the time: 0.41 of the saving arrives." in text
    assert "Layers with MACs take 73 % of the dense and 62 % of the pruned network's time." in text
    assert "save 38 % of their time, and reach 40 GFLOP/s (75 in the dense network, of 100)" in text
    assert "(most of it activation) take 18 % of the dense and 25 % of the pruned" in text
    assert "4.33 ms less: 2.33 in layers with MACs, 1.33 in layers without, 0.67 between layers." in text
    assert "Memory bounds 1 of 2 layers with MACs in the dense network and 1 of 2 in the pruned one." in text
    # on the roofline: 4 + 10 + 0.8 ms dense, 1 + 5 + 0.8 ms pruned
    assert "would take 14.80 / 6.80 ms, dense / pruned: 54.1 % saved" in text


def test_nothing_saved_is_not_divided():
    dense, _ = example()
    text = " ".join(explain(dense, dense, MACHINE, 1.0))
    assert "saves 0.0 % of the MACs and 0.0 % of the time." in text and "arrives" not in text and "less:" not in text


def test_record_has_all_layers():
    found = profile_record(dict(zip(("dense", "pruned"), example(), strict=True)), MACHINE)
    assert found["machine"] == {"gflops": 100, "gbytes_per_second": 10}
    assert found["networks"]["pruned"]["layers"]["b"] == {
        **vars(convolution(5 * 10**7, 5 * 10**7)),
        "ms": 1.0,
        "bound": MEMORY,
        "gflops": 100.0,
        "roofline": 5.0,
    }
    assert found["networks"]["dense"]["between_ms"] == 1.0 and json.dumps(found)


def test_folded_network_computes_the_same_without_batch_norm():
    """The third batch norm stays: the output of its convolution is also added."""
    torch.manual_seed(0)
    model = Residual()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2), module.weight.data.normal_()
    folded, x = fold_batch_norm(model.eval()), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    work = layer_work(folded, x)
    assert {name for name, one in work.items() if one.kind == NORMALIZATION} == {"bn3"}
    assert sum(one.macs for one in work.values()) == sum(one.macs for one in layer_work(model, x).values())
    assert isinstance(model.bn1, nn.BatchNorm2d)  # unchanged


def test_network_that_cannot_be_folded_is_named():
    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"^--fold-batch-norm: .*network small\.st"):
        profile._folded("small.st", Depends())


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot_is_written(tmp_path, suffix):
    networks = dict(zip(("dense", "pruned", "x" * 60), [*example(), example()[1]], strict=True))
    plot_layers(tmp_path / f"p.{suffix}", networks, MACHINE, 2, "a title")
    assert (tmp_path / f"p.{suffix}").stat().st_size > 5000
    if suffix == "svg":
        text = (tmp_path / "p.svg").read_text()
        assert text.count("#0072b2") >= 4 and text.count("#d55e00") >= 4  # a and b in three networks, and the legend


def test_command_prints_tables_and_writes_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(roofline, "measure_machine", lambda *_: MACHINE)
    monkeypatch.setattr(Timing, "disturbed", property(lambda self: "busy machine: other processes used 0.5 cores"))
    dense, small = create_model("resnet20"), uniform_network("resnet20", 0.5, 8)
    save_model(tmp_path / "m.safetensors", small)
    words = [
        "--checkpoint",
        str(tmp_path / "m.safetensors"),
        "--batch-size",
        "1",
        "--seconds",
        "0.1",
        "--device",
        "cpu",
    ]
    words += ["--top", "3", "--json", str(tmp_path / "p.json"), "--plot", str(tmp_path / "p.svg")]
    assert profile.main([*words, "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "cpu, 1 thread, batches of 1. A large matrix product reaches 100 GFLOP/s" in printed
    assert "of the saving arrives" in printed and " others " in printed and "The hooks add " in printed
    assert printed.count("Busy machine: other processes used 0.5 cores.") == 1 and printed.endswith("idle machine.\n")
    record = json.loads((tmp_path / "p.json").read_text())
    name = str(tmp_path / "m.safetensors")
    layers = record["networks"]["dense"]["layers"]
    assert (
        set(record["networks"]) == {"dense", name} and record["batch_size"] == 1 and "ratio" in record["relative"][name]
    )
    assert layers.keys() == record["networks"][name]["layers"].keys()
    assert {n for n, m in dense.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)} < layers.keys()
    assert layers["layer2.1: relu"]["calls"] == 2 and layers["layer2.1: add"]["kind"] == ADDITION


def test_command_folds_batch_norm(capsys, monkeypatch):
    monkeypatch.setattr(roofline, "measure_machine", lambda *_: MACHINE)
    words = ["--arch", "resnet20", "--batch-size", "1", "--seconds", "0.1", "--device", "cpu"]
    assert profile.main(words) == 0 and "batch norm" in capsys.readouterr().out
    assert profile.main([*words, "--fold-batch-norm"]) == 0 and "batch norm" not in capsys.readouterr().out


def test_command_reports_errors(capsys):
    assert profile.main([]) == 2 and "--checkpoint, --arch" in capsys.readouterr().err
    assert profile.main(["--arch", "lenet5", "--plot", "p.gif"]) == 2 and "--plot p.gif" in capsys.readouterr().err
