"""The measurement of what can be pruned: results of small networks, limits, resuming, and the table, which is up to date."""

import json

import pytest
import torch
from reach_functions import allocates, exits, finishes, raises, takes_too_long
from torch import nn

from common.atomic import write_json
from common.paper import reach, reach_networks, reach_torch_pruning, tables
from common.paper.limited_process import run_limited
from common.runs import read_json


class Small(nn.Module):
    """A residual sum, a concatenation, and a normalization that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.bn, self.d = nn.BatchNorm2d(8), nn.Conv2d(12, 12, 1)
        self.e, self.norm, self.fc = nn.Conv2d(12, 6, 1), nn.LocalResponseNorm(3, alpha=1.0), nn.Linear(6, 1000)

    def forward(self, x):
        x = self.first(x)
        x = x + self.bn(self.b(x.relu()))
        x = self.d(torch.cat([x, self.c(x)], 1)).relu()
        return self.fc(self.norm(self.e(x)).mean((2, 3)))


SHAPE = (3, 8, 8)


def measure(function, model, monkeypatch=None):
    """Return all that a measurement reports."""
    found, entered = {}, []

    class Limit:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *_):
            pass

    torch.manual_seed(0)
    reach_networks.randomize(model, SHAPE)
    function(model, SHAPE, found.update, Limit)
    assert entered
    return found


def test_networks_are_80_of_torchvision_and_60_of_timm():
    names = reach_networks.network_names()
    assert len(reach.TIMM) == 60 and len(names) == len(set(names)) == 140


def test_networks_of_timm_exist():
    timm = pytest.importorskip("timm")
    assert set(reach.TIMM) <= set(timm.list_models())


@pytest.mark.filterwarnings("ignore:e is not listed")
def test_common_is_measured_against_masked_network():
    found = measure(reach_networks.measure_common, Small())
    (reason,) = found["excluded"]
    assert found["groups"] == 3 and reason["groups"] == ["e"] and reason["macs"] == 64 * 12 * 6
    assert reason["reason"].startswith("... is a LocalResponseNorm") and reason["example"].startswith("norm is a Local")
    macs = 64 * (3 * 8 + 8 * 8 * 9 + 8 * 4 + 12 * 12 + 12 * 6) + 6000
    after = 64 * (3 * 4 + 4 * 4 * 9 + 4 * 2 + 6 * 6 + 6 * 6) + 6000
    assert found["macs_removed"] == pytest.approx(1 - after / macs) and found["difference"] < 1e-14


class Caches(nn.Module):
    """Attention between pixels, and a bias that is cached in eval mode, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8, 1000)
        self.attention, self.bias, self.cache = (
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Parameter(torch.ones(1)),
            {},
        )

    def train(self, mode=True):
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x):
        if not self.training and "bias" not in self.cache:
            self.cache["bias"] = 2 * self.bias
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1)) * self.cache["bias"]


@pytest.mark.filterwarnings("ignore:.* is not listed", "ignore:Unwrapped parameters")
def test_networks_that_cache_tensors_are_measured_and_attention_is_counted():
    """Cached tensors have a graph or another type; torch's fast path of attention is not counted."""
    model = Caches()
    macs = 64 * (3 * 8 + 8 * 24 + 8 * 8 + 2 * 64 * 8) + 8000
    assert reach_networks.count_macs(model, SHAPE) == macs and model.cache == {}
    assert measure(reach_networks.measure_common, model)["difference"] < 1e-14
    assert measure(reach_torch_pruning.measure_torch_pruning, Caches())["macs_removed"] > 0


@pytest.mark.filterwarnings("ignore:e is not listed")
def test_wrongly_pruned_network_differs(monkeypatch):
    def keep(model, example, kept):
        smaller = keep_channels(model, example, kept)
        smaller.b.weight.data[0, 0] *= 1 + 1e-6
        return smaller

    keep_channels = reach_networks.keep_channels
    monkeypatch.setattr(reach_networks, "keep_channels", keep)
    found = measure(reach_networks.measure_common, Small())
    assert 1e-9 < found["difference"] < 1e-5 and reach.outcome({"common": found}) == "differs"


def test_network_that_cannot_be_traced_is_left_alone_with_reason():
    class Frozen(Small):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    found = measure(reach_networks.measure_common, Frozen())
    assert (
        found["groups"] == found["macs_removed"] == 0
        and "not connected to its weights" in found["excluded"][0]["reason"]
    )
    assert reach.outcome({"common": found}) == "left alone"


def test_torch_pruning_is_measured_against_masked_network():
    """Positions in a concatenation are followed; a normalization that loses channels gives another function."""
    model = Small()
    found = measure(reach_torch_pruning.measure_torch_pruning, model)
    assert model.b.out_channels == 4 and found["macs_removed"] > 0.5 and found["difference"] > 1e-3
    model = Small()
    model.norm = nn.Identity()
    assert measure(reach_torch_pruning.measure_torch_pruning, model)["difference"] < 1e-14 and model.d.in_channels == 6


def test_random_networks_have_no_constants():
    model = Small()
    nn.init.zeros_(model.bn.weight)
    reach_networks.randomize(model, SHAPE)
    assert all(parameter.unique().numel() > 1 for parameter in model.parameters() if parameter.numel() > 1)
    assert model.bn.running_mean.abs().min() > 0 and not model.training


@pytest.mark.parametrize(
    ("function", "argument", "found"),
    [
        (finishes, 3, {"first": 3, "second": 4}),
        (takes_too_long, 0.2, {"first": 1, "error": "over 0.2 s"}),
        (allocates, 0.5, {"size": 2**29}),
        (allocates, 4, {"error": "out of memory"}),
        (raises, "user", {"error": "a.b: cannot be pruned"}),
        (raises, "other", {"error": "ValueError: first line"}),
        (exits, 3, {"error": "ended with exit status 3"}),
    ],
)
def test_process_ends_with_named_outcome(function, argument, found):
    assert run_limited(function, (argument,), seconds=0.2, memory_gib=2) == found


def row(name, removed=0.7, seconds=1.0, **common):
    ours = {"groups": 3, "excluded": [], "macs_removed": removed, "difference": 1e-16, "seconds": seconds} | common
    theirs = {"macs_removed": 0.75, "difference": None, "seconds": 0.5}
    return {"network": name, "input": [3, 8, 8], "macs": 2_000_000, "common": ours, "torch_pruning": theirs}


def test_finished_networks_are_not_measured_again(monkeypatch, tmp_path, capsys):
    measured = []

    def measure_in_process(name, seconds, memory_gib, torch_pruning):
        measured.append(name)
        return row(name) | ({"torch_pruning": torch_pruning} if torch_pruning else {})

    monkeypatch.setattr(reach_networks, "measure_in_process", measure_in_process)
    monkeypatch.setattr(reach, "version", lambda library: "1")
    monkeypatch.setattr(reach, "find_spec", lambda library: True)
    file = str(tmp_path / "reach.json")
    assert reach.main(["--out", file, "--only", "vgg11", "alexnet"]) == 0
    assert reach.main(["--out", file, "--only", "alexnet", "dla34"]) == 0
    assert measured == ["vgg11", "alexnet", "dla34"]
    record = read_json(file)
    assert [r["network"] for r in record["rows"]] == ["alexnet", "vgg11", "dla34"]
    assert {"torch", "torchvision", "torch-pruning", "timm"} <= set(record["environment"]["versions"])
    assert reach.main(["--out", file, "--only", "alexnet", "--force"]) == 0 and measured[3:] == ["alexnet"]
    record["rows"][1]["torch_pruning"] = {"error": "over 60 s"}
    write_json(file, record)
    assert (
        reach.main(["--out", file, "--force", "--keep-torch-pruning", "--only", "vgg11", "dla34", "--jobs", "2"]) == 0
    )
    assert sorted(measured[4:]) == ["dla34", "vgg11"]
    assert read_json(file)["rows"][1]["torch_pruning"] == {"error": "over 60 s"}
    assert "3 of 3 networks (100 %)" in capsys.readouterr().out
    assert reach.main(["--out", file, "--only", "alexnt"]) == 2
    assert "--only: unknown network alexnt; did you mean alexnet?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", '{"rows": [1]}', '{"rows": {}}'])
def test_other_json_file_raises(text, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reach, "find_spec", lambda library: True)
    (tmp_path / "a.json").write_text(text)
    assert reach.main(["--out", str(tmp_path / "a.json"), "--only", "alexnet"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "a.json: not a" in error


def test_missing_timm_raises(monkeypatch, capsys):
    monkeypatch.setattr(reach, "find_spec", lambda library: None)
    assert reach.main(["--only", "alexnet"]) == 2 and "common[timm]" in capsys.readouterr().err


def test_summary_counts_every_outcome():
    reason = {"reason": "... is odd", "example": "a.b is odd", "groups": ["a.b", "a.c"], "macs": 500_000}
    rows = [
        row("exact"),
        row("little", removed=0.3, seconds=9.0, excluded=[reason]),
        row("alone", removed=0.0, groups=0, excluded=[reason]),
        row("silent", removed=0.0, groups=0),
        row("wrong", difference=1e-3),
        row("undefined", difference=None),
        row("slow") | {"common": {"groups": 3, "excluded": [], "error": "over 60 s"}, "usual": 16},
    ]
    outcomes = ["exact", "exact", "left alone", "without groups and reasons", "differs", "differs", "over 60 s"]
    assert list(map(reach.outcome, rows)) == outcomes
    lines = reach.summary_lines(rows)
    assert lines[0].startswith("3 of 7 networks (43 %) are pruned exactly (2) or left alone with a reason (1).")
    assert lines[1].startswith(
        "The others: silent (without groups and reasons), wrong (differs), undefined (differs), slow"
    )
    assert lines[2].startswith("3 of 7 networks (43 %) lose at least 40 % of their MACs")
    assert lines[3].startswith("torch-pruning alone: 7 of 7 pruned networks run; the outputs of 0 ")
    assert lines[4] == "Slowest: little, 9.0 s of one core."
    page = reach.reach_page({"rows": rows, "environment": {"device": "cpu", "versions": {"torch": "2"}}})
    assert (
        "| a.b is odd | 7.1 % | 4 | little, alone |" in page
        and "| slow | 8x8 (usual: 16) | 2 | 3 |  | over 60 s |" in page
    )
    assert "more than 20 billion MACs: slow (8 instead of 16)." in page


def test_network_that_cannot_be_built_has_a_row():
    failed = {"network": "a", "common": {"error": "killed"}, "torch_pruning": {"error": "killed"}}
    assert reach.cells_of_row(failed)[:6] == ["a", "", "", "", "", "killed"]
    assert reach.summary_lines([failed])[1] == "The others: a (killed)."


def test_table_of_reach_is_up_to_date():
    record = json.loads(reach.REACH.read_text(encoding="utf-8"))
    names = [r["network"] for r in record["rows"]]
    assert names == [name for name in reach_networks.network_names() if name in names]
    assert tables.main(["--check"]) == 0
