"""``show`` describes every file of the project from its header, and lists the runs below a folder."""

import copy
import csv
import fcntl
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common import show
from common.channels import channel_groups, keep_channels
from common.checkpoint import save_model, write_half
from common.command_line import SUBCOMMANDS
from common.cost import count_cost
from common.descriptions import curves, readers
from common.descriptions.description import Bars, Description, Style, aligned, amount, bar_lines, natural_key, render
from common.descriptions.readers import describe
from common.descriptions.run_table import COLUMNS, find_runs, sort_runs
from common.errors import UserError
from common.models import create_model
from common.paper.hostile_files import cases
from common.runs import open_stage, typed_command
from common.tensor_files import read_tensor_file

FINISHED_RUN = Path(__file__).parent / "data" / "finished_run" / "train"
NARROW = Style(80, 24)
DENSE = {"top1": 90.5, "macs": 1000, "params": 50, "nonzero_params": 50, "bytes": 400, "latency_ms": {"1": 2.0}}
SMALL = {"top1": 88.25, "macs": 500, "params": 20, "nonzero_params": 20, "bytes": 100, "agreement": 95.0}
RECORD = {"schema": 1, "package": "decore", "arch": "resnet20", "dataset": "digits", "seed": 3, "seconds": 61.0}
COMMAND = "python prune_model.py --penalty 4"
HOSTILE = "\x1b[31mred\u202e"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Checkpoints of LeNet-5 with half of its channels: in one file, in shards, and as a state dict."""
    folder = tmp_path_factory.mktemp("networks")
    model = create_model("lenet5").eval()
    example = torch.rand(2, 1, 28, 28)
    groups = channel_groups(model, example)
    small = keep_channels(model, example, {group.name: range(group.size // 2) for group in groups})
    save_model(
        folder / "small.safetensors", small, dataset="mnist", normalize=([0.1], [0.3]), classes=list("0123456789")
    )
    write_half(folder / "small.safetensors", folder / "half.safetensors", 60_000)
    torch.save({"epoch": 7, "state_dict": small.state_dict()}, folder / "small.pth")
    macs = [count_cost(network, (1, 28, 28)).macs for network in (model, small)]
    return folder, macs, count_cost(small, (1, 28, 28)).params


def write_run(folder, metrics=None, files=(), **options):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"package": "decore", "options": options, "environment": {"device": "cpu"}, "command": COMMAND}
    (folder / "config.json").write_text(json.dumps(config))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    for name, text in dict(files).items():
        (folder / name).write_text(text)
    return folder


def text_of(path, style=NARROW):
    return render(path.name, describe(path), style)


def run_show(capsys, *words):
    """Return (exit status, standard output, lines on standard error)."""
    status = show.main([str(word) for word in words])
    out, error = capsys.readouterr()
    return status, out, error.strip().splitlines()


# ---------------------------------------------------------------------------------------------------------------- networks


def test_pruned_network_shows_costs_and_widths_next_to_registered_one(networks):
    folder, (dense, macs), params = networks
    found = describe(folder / "small.safetensors")
    costs = {name: values for name, *values in found.costs}
    assert costs["MACs"] == [dense, macs] and costs["parameters"][1] == params
    (bars,) = found.bars
    assert ("conv1", 10, 20) in bars.rows and ("fc2", 10, 10) in bars.rows
    text = text_of(folder / "small.safetensors")
    assert "lenet5 (num_classes 10)" in text and "mnist, 10 classes" in text and "kept of the unpruned lenet5" in text
    assert max(map(len, text.splitlines())) <= 80


def test_sharded_network_has_same_widths(networks):
    folder, *_ = networks
    whole, parts = describe(folder / "small.safetensors"), describe(folder / "half.safetensors.index.json")
    assert parts.bars == whole.bars and parts.costs[:2] == whole.costs[:2]
    assert "8 files" in parts.kind and ("precision", "weights rounded to float16") in parts.facts


def test_state_dict_shows_shapes_without_values(networks, monkeypatch):
    folder, *_ = networks
    monkeypatch.setattr("common.tensor_files._Storage.fill", lambda *arguments: pytest.fail("values were read"))
    found = describe(folder / "small.pth")
    assert found.bars[0].rows[0] == ("conv1", 10, None) and ("epoch", "7") in found.facts


def test_state_dict_without_values_has_same_shapes(networks):
    folder, *_ = networks
    both = [read_tensor_file(folder / "small.pth", values=values)["state_dict"] for values in (True, False)]
    shapes = [[(name, tensor.shape, tensor.dtype) for name, tensor in state.items()] for state in both]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 8


def test_checkpoint_with_metrics_is_read_without_torch():
    code = "import sys; from common import show; show.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    call = [sys.executable, "-c", code, str(FINISHED_RUN / "model.safetensors")]
    run = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0 and "89.20" in run.stdout and "16 of 16" in run.stdout


def test_header_of_large_file_is_read_alone(tmp_path):
    """A file of 4 GiB, of which only the header is on the disk."""
    file, count = tmp_path / "large.safetensors", 2**30
    header = json.dumps(
        {"a.weight": {"dtype": "F32", "shape": [2**10, 2**20], "data_offsets": [0, 4 * count]}}
    ).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + 4 * count)
    assert "1,073,741,824 values (F32)" in text_of(file)
    os.truncate(file, 8 + len(header) + 4 * count - 1)
    with pytest.raises(UserError, match="truncated"):
        describe(file)


def test_metrics_and_command_of_run_are_shown(networks, tmp_path):
    folder, *_ = networks
    widths = {"conv1": [10, 20], "fc1": [250, 500]}
    metrics = {**RECORD, "baseline": DENSE, "after_cut": {**SMALL, "top1": 40.0}, "compressed": SMALL, "widths": widths}
    run = write_run(tmp_path / "run", {**metrics, "label": "DECORE", "targets": {"macs": 0.5}}, start_digest="abc123")
    shutil.copy(folder / "small.safetensors", run / "model.safetensors")
    found = describe(run / "model.safetensors")
    facts = dict(found.facts)
    assert (
        facts["command"] == COMMAND and facts["method"] == "DECORE, 50 % of the MACs" and "abc123" in facts["weights"]
    )
    assert found.costs[:3] == [
        ("top-1 (%)", 90.5, 88.25),
        ("top-1 before fine-tuning (%)", None, 40.0),
        ("agreement (%)", None, 95.0),
    ]
    assert found.bars[0].rows == [("conv1", 10, 20), ("fc1", 250, 500)]
    assert (
        "bytes of this file",
        None,
        (run / "model.safetensors").stat().st_size,
    ) in found.costs  # not that of the metrics
    shutil.copy(folder / "small.safetensors", run / "other.safetensors")
    assert "top-1 (%)" not in [name for name, *_ in describe(run / "other.safetensors").costs]


def test_network_next_to_report_has_widths_of_dense_network(tmp_path):
    save_model(tmp_path / "a.safetensors", nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    report = {"method": "ID", "target": "50 % of the MACs", "metrics": {"baseline": DENSE, "compressed": SMALL}}
    report |= {"widths": [["0", 6, 3]], "file": "a.safetensors", "excluded": {"1": "the output"}, "examples": 10}
    (tmp_path / "a.safetensors.json").write_text(json.dumps(report))
    assert describe(tmp_path / "a.safetensors").bars[0].rows == [("0", 3, 6), ("1", 2, 2)]
    text = text_of(tmp_path / "a.safetensors.json")
    assert "3 of 6" in text and "the output" in text and "ID, 50 % of the MACs" in text


def test_onnx_file_is_described_without_onnx(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = numpy_helper.from_array(torch.zeros(6, 4).numpy(), "fc.weight")
    images, scores = (helper.make_tensor_value_info(n, 1, ["batch", k]) for n, k in (("images", 4), ("scores", 6)))
    node = helper.make_node("Gemm", ["images", "fc.weight"], ["scores"], transB=1)
    graph = helper.make_graph([node], "g", [images], [scores], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = describe(tmp_path / "a.onnx")
    assert dict(found.facts)["inputs"] == "images (batch x 4)" and dict(found.facts)["operations"] == "Gemm 1"
    assert found.bars[0].rows == [("fc", 6, None)] and "opset 18" in dict(found.facts)["written by"]
    data = (tmp_path / "a.onnx").read_bytes()
    for size in range(len(data)):
        (tmp_path / "a.onnx").write_bytes(data[:size])
        try:
            describe(tmp_path / "a.onnx")
        except UserError as error:
            assert "not an ONNX file, or damaged" in str(error)


def test_exported_program_is_described(tmp_path):
    program = torch.export.export(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "a.pt2")
    found = describe(tmp_path / "a.pt2")
    assert found.bars[0].rows == [("0", 6, None)] and "relu 1" in dict(found.facts)["operations"]


# ----------------------------------------------------------------------------------------------------------------- records


def test_records_are_recognized_by_their_content(tmp_path):
    contents = {
        "metrics of a finished run of decore": {**RECORD, "baseline": DENSE},
        "configuration of a run of decore, not finished": {
            "package": "decore",
            "options": {"epochs": 3},
            "environment": {},
        },
        "decision of a method": {"kept": {"conv1": [0, 2, 5]}, "report": {"penalty": 2.5}},
        "record of a finished job": {"identity": "a", "command": COMMAND, "seconds": 3.5},
        "result of a benchmark": {"unit": "ms", "medians": {"a": 1.5}, "values": [], "command": COMMAND},
        "table of values": {"top1": 91.25, "macs": 1000, "params": 10},
        "list": [{"round": 1, "density": 0.5}],
    }
    for kind, content in contents.items():
        path = tmp_path / "any.json"
        path.write_text(json.dumps(content))
        found = describe(path)
        assert found.kind.startswith(kind), (kind, found)
    path.write_text(json.dumps(contents["decision of a method"]))
    assert describe(path).bars[0].rows == [("conv1", 3, None)] and ("penalty", "2.50") in describe(path).facts
    path.write_text(json.dumps(contents["table of values"]))
    assert ("top-1 (%)", None, 91.25) in describe(path).costs


def test_other_files_are_described(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,test_top1,seconds\n1,50.5,2\n2,75.25,2\n")
    assert ("best test_top1", "75.25 %") in describe(tmp_path / "log.csv").facts
    (tmp_path / "a.jsonl").write_text('{"top1": 1.5}\n{"top1": 2.5}\n{"to')
    assert ("lines", "2, and 1 damaged ones") in describe(tmp_path / "a.jsonl").facts
    (tmp_path / "plan.toml").write_text('[[job]]\nname = "a"\nrun = "python x.py --out {out}"\ntags = ["quick"]\n')
    assert "python x.py" in text_of(tmp_path / "plan.toml")
    (tmp_path / "a.log").write_text("first\n" * 50 + "last\n")
    assert "last" in text_of(tmp_path / "a.log") and text_of(tmp_path / "a.log").count("first") == 11
    (tmp_path / "b.exe").write_bytes(b"MZ\0\0")
    with pytest.raises(UserError, match="not a file that this project writes"):
        describe(tmp_path / "b.exe")


def test_package_describes_its_own_format(tmp_path, monkeypatch):
    def own(path, content):
        return Description("own format", [("from", HOSTILE)]) if path.suffix == ".own" else None

    monkeypatch.setattr(readers, "installed_descriptions", lambda: (own,))
    (tmp_path / "a.own").write_bytes(b"x")
    assert text_of(tmp_path / "a.own").startswith("a.own: own format")


# ----------------------------------------------------------------------------------------------------------- hostile files


def test_damaged_file_costs_one_line(networks, tmp_path, capsys):
    folder, *_ = networks
    data = (folder / "small.safetensors").read_bytes()
    damaged = {
        "cut.safetensors": data[:-1],
        "header.safetensors": data.replace(b"mnist", b"cifar"),
        "none.safetensors": b"",
        "a.json": b'{"a": 1',
        "deep.json": b"[" * 100_000,
        "log.csv": b"a,b\n1\n",
        "a.pt2": b"PK\x03\x04" + bytes(30),
        "a.pth": (folder / "small.pth").read_bytes()[:1000],
        "a.onnx": b"\x3a\xff",
        "plan.toml": b"include = [5]",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        status, out, error = run_show(capsys, tmp_path / name)
        assert (status, out, len(error)) == (2, "", 1) and name in error[0], (name, out, error)


def test_hostile_files_are_described_or_rejected(tmp_path):
    rejected = 0
    found = [case for case in cases().values() if case[0].startswith(("weights", "model"))]
    for number, (file, write) in enumerate(found):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder)
        for path in [path for path in folder.rglob(Path(file).name) if path.is_file()]:
            try:
                text_of(path)
            except UserError:
                rejected += 1
        shutil.rmtree(folder)
    assert rejected >= 12


def test_changed_records_never_raise(tmp_path):
    values = [
        None,
        True,
        -1,
        10**400,
        float("nan"),
        float("inf"),
        HOSTILE,
        [],
        {},
        [[]],
        [1, "x"],
        "1/2",
        {"": ""},
        [{}],
    ]
    metrics = {**RECORD, "baseline": DENSE, "compressed": SMALL, "widths": {"conv1": [1, 2]}, "targets": {"macs": 0.5}}
    metrics |= {"missed": ["macs"], "kept": {"a": "1/2"}, "label": "DECORE", "log": [{"epoch": 1}], "command": COMMAND}
    config = {
        "package": "decore",
        "options": {"epochs": 3, "weights": "a.pth"},
        "files": {"weights": "12"},
        "command": ["a"],
    }
    config["environment"] = {"device": "cpu", "versions": {"torch": "2"}}
    job = {"name": "a", "out": "a", "package": "p", "keep": [], "needs": ["b"], "tags": [], "identity": "1"}
    contents = {"metrics.json": metrics, "config.json": config, "plan.json": {"jobs": [job]}}
    contents["report.json"] = {
        "method": "ID",
        "target": "x",
        "metrics": {"baseline": DENSE},
        "widths": [["a", 2, 1]],
        "file": "f",
    }
    contents["decision.json"] = {"kept": {"a": [1]}, "report": {"x": 1.5}}
    generator = random.Random(0)
    (tmp_path / "jobs").mkdir()
    for _ in range(600):
        name = generator.choice(list(contents))
        content = json.loads(json.dumps(contents[name]))
        for _ in range(generator.randint(1, 3)):
            place = content
            while isinstance(place, dict | list) and place:
                key = generator.choice(list(place) if isinstance(place, dict) else range(len(place)))
                if generator.random() < 0.5 or not isinstance(place[key], dict | list):
                    place[key] = copy.deepcopy(generator.choice(values))
                    break
                place = place[key]
        (tmp_path / name).write_text(json.dumps(content))
        try:
            found = describe(tmp_path / name)
            json.dumps(found.as_json(), allow_nan=False)
            assert not {"\x1b", "\u202e"} & set(render(name, found, NARROW))
        except UserError:
            pass
        listed = find_runs(tmp_path)
        for column in COLUMNS:
            json.dumps([run.as_row() for run in sort_runs(listed, column)], allow_nan=False)


def test_escape_codes_do_not_reach_terminal(tmp_path, capsys):
    write_run(tmp_path / HOSTILE, {**RECORD, "arch": HOSTILE, "command": HOSTILE, "label": HOSTILE, "baseline": DENSE})
    for words in ([], ["--format", "csv"], ["--format", "json"]):
        status, out, _ = run_show(capsys, tmp_path, *words)
        assert status == 0 and not {"\x1b", "\u202e"} & set(out)
    assert "\\x1b[31mred" in run_show(capsys, tmp_path / HOSTILE / "metrics.json")[1]


# ----------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run in every state."""

    def own(path, content):
        if path.name != "reason.txt":
            return None
        return Description("reason", status=path.read_text())

    monkeypatch.setattr(readers, "installed_descriptions", lambda: (own,))
    root = tmp_path / "runs"
    log = "epoch,train_loss,seconds\n1,2.5,10\n2,1.5,12\n"
    write_run(
        root / "seed10" / "best", {**RECORD, "baseline": DENSE, "compressed": SMALL}, {"log.csv": log}, method="a"
    )
    write_run(root / "seed10" / "best" / "stage", {**RECORD, "seconds": 5.0})
    write_run(root / "seed9", None, {"state.pt": "", "log.csv": log}, arch="vgg16")
    write_run(root / "begun")
    write_run(root / "stopped", None, {"reason.txt": "failed: ValueError: too small"})
    (root / "target").mkdir()
    (root / "target" / "reason.txt").write_text("unreachable: no width fits")
    write_run(root / "broken", None, {"metrics.json": "{"})
    write_run(root / "cut", {**RECORD, "baseline": {**DENSE, "top1": 80.5}}, {"log.csv": "a,b\n1\n"})
    (root / "data").mkdir()
    (root / "data" / "config.json").write_text('{"model_type": "of another program"}')
    return root


def test_runs_are_listed_with_states(runs):
    found = {run.run: run for run in find_runs(runs)}
    assert {name: run.status for name, run in found.items()} == {
        "begun": "unfinished: starts again",
        "broken": "damaged",
        "cut": "damaged",
        "seed9": "unfinished: resumes",
        "seed10/best": "finished",
        "seed10/best/stage": "finished",
        "stopped": "failed",
        "target": "unreachable",
    }
    assert list(found)[3:5] == ["seed9", "seed10/best"]  # in order of the numbers
    best = found["seed10/best"]
    assert (best.top1_dense, best.top1, best.macs, best.bytes, best.seconds) == (90.5, 88.25, 0.5, 0.25, 61.0)
    assert (best.command, best.epochs, best.seed) == (COMMAND, 2, 3)
    assert found["seed9"].seconds == 22.0 and found["seed9"].network == "vgg16"
    assert "metrics.json" in found["broken"].reason and found["stopped"].reason == "ValueError: too small"
    assert found["target"].reason == "no width fits" and found["cut"].top1_dense == 80.5


def test_running_run_is_recognized_without_stopping_it(runs):
    descriptor = os.open(runs / "seed9", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert {run.run: run.status for run in find_runs(runs)}["seed9"] == "running"
    finally:
        os.close(descriptor)
    assert {run.run: run.status for run in find_runs(runs)}["seed9"] == "unfinished: resumes"
    assert (
        open_stage(runs / "seed9", "decore", {"arch": "vgg16"}).folder == runs / "seed9"
    )  # nothing was locked or written


def test_stage_has_command_of_run_above(tmp_path):
    write_run(tmp_path / "a", {**RECORD, "command": "python -m compare"})
    stage = write_run(tmp_path / "a" / "b" / "c", RECORD)
    config = json.loads((stage / "config.json").read_text())
    (stage / "config.json").write_text(json.dumps({**config, "command": None}))
    assert [run.command for run in find_runs(tmp_path)] == ["python -m compare"] * 2


def test_jobs_of_campaign_are_listed(tmp_path):
    names = ("done", "failed", "waiting")
    jobs = [{"name": n, "out": n, "package": "p", "keep": [], "needs": [], "tags": [], "identity": "1"} for n in names]
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": jobs}))
    for name, file, text in (
        ("done", "done", json.dumps({"identity": "1", "command": "python train.py", "seconds": 7})),
        ("failed", "failed", "first\nout of memory\n"),
    ):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        (tmp_path / "jobs" / name / file).write_text(text)
    write_run(tmp_path / "runs" / "failed" / "a", None, {"state.pt": ""})
    found = {run.run: (run.status, run.reason) for run in find_runs(tmp_path)}
    assert found == {
        "runs/done": ("finished", ""),
        "runs/failed/a": ("failed", "out of memory"),
        "runs/waiting": ("waiting", ""),
    }
    assert dict(describe(tmp_path / "plan.json").facts)["jobs"] == "1 failed, 1 done, 1 waiting"
    assert ("command", "python train.py") in describe(tmp_path / "jobs" / "done" / "done").facts


def test_folder_of_results_is_listed(tmp_path):
    (tmp_path / "run-a.json").write_text(json.dumps({**RECORD, "baseline": DENSE, "compressed": SMALL}))
    (tmp_path / "other.json").write_text("[1, 2]")
    (found,) = find_runs(tmp_path)
    assert (found.run, found.status, found.macs) == ("run-a.json", "finished", 0.5)


def test_table_has_all_formats(runs, capsys):
    status, out, _ = run_show(capsys, runs)
    assert status == 0 and out.splitlines()[0].split() == [
        "run",
        "status",
        "network",
        "dense",
        "top-1",
        "MACs",
        "bytes",
        "time",
        "cmd",
    ]
    line = next(line for line in out.splitlines() if line.startswith("seed10/best "))
    assert line.split()[1:8] == ["finished", "resnet20", "90.50", "88.25", "50.0%", "25.0%", "61.0"]
    assert f"1  {COMMAND}" in out and "8 runs: " in out and "no width fits" in out
    rows = list(csv.DictReader(io.StringIO(run_show(capsys, runs, "--format", "csv")[1])))
    listed = json.loads(run_show(capsys, runs, "--format", "json")[1])
    assert [row["run"] for row in rows] == [row["run"] for row in listed] and set(rows[0]) == set(listed[0]) == set(
        COLUMNS
    )


def test_runs_are_sorted(runs, capsys):
    def order(*words):
        return [row["run"] for row in json.loads(run_show(capsys, runs, "--format", "json", *words)[1])]

    assert order("--sort", "top1_dense")[:2] == ["seed10/best", "cut"]
    assert order("--sort", "seconds")[:2] == ["seed10/best/stage", "seed9"]
    assert order("--sort", "seconds", "--reverse")[0] in ("cut", "seed10/best") and order("--reverse")[0] == "target"


def test_invalid_input_costs_one_line(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, part in (
        ([tmp_path / "missing"], "no such file or folder"),
        ([tmp_path / "empty"], "contains no runs"),
        ([FINISHED_RUN / "metrics.json", "--format", "csv"], "--format csv"),
        ([runs, "--plot", "a.gif"], "--plot a.gif"),
        ([runs, "--columns", "train_loss"], "--columns"),
        ([runs, "--plot", tmp_path / "a.png", "--columns", "x"], "they have train_loss"),
        ([runs / "begun" / "config.json", "--plot", tmp_path / "a.png"], "no log.csv"),
    ):
        status, _, error = run_show(capsys, *words)
        assert status == 2 and len(error) == 1 and part in error[0], error


# ------------------------------------------------------------------------------------------------------------------ curves


def test_curves_are_plotted_and_written_for_tensorboard(runs, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "board" / "seed9").mkdir(parents=True)
    (tmp_path / "board" / "seed9" / "events.out.tfevents.1.training").write_bytes(b"")
    for _ in range(2):
        words = ("--plot", tmp_path / "a.svg", "--tensorboard", tmp_path / "board")
        status, _, error = run_show(capsys, runs, *words)
        assert status == 0 and "train_loss of 2 runs" in error[0], error
    assert "train loss" in (tmp_path / "a.svg").read_text() and "seed10/best" in (tmp_path / "a.svg").read_text()
    (tmp_path / "board" / "seed9" / "events.out.tfevents.1.training").unlink()  # another program's file is kept
    (events,) = (tmp_path / "board" / "seed9").iterdir()
    found = EventAccumulator(str(events))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train_loss")] == [(1, 2.5), (2, 1.5)]


def test_log_of_several_trainings_is_plotted_by_row(tmp_path):
    write_run(tmp_path / "a", RECORD, {"log.csv": "round,epoch,train_loss\n1,1,3\n1,2,2\n2,1,2.5\n"})
    found = curves.read_curves(tmp_path, ["a"])["a"]
    assert found.step == "row" and found.columns == {"train_loss": [(1.0, 3.0), (2.0, 2.0), (3.0, 2.5)]}


# --------------------------------------------------------------------------------------------------------------- rendering


def test_similar_layers_share_a_line_in_small_terminal():
    rows = [(f"layer{stage}.{block}.conv1", 8 * stage, 16 * stage) for stage in (1, 2, 3) for block in range(18)]
    lines = list(bar_lines(Bars("channels per layer", rows), Style(80, 24)))
    assert len(lines) == 4 and lines[1].startswith("layer1.*.conv1 (18)  144 of 288   50 %")
    assert len(list(bar_lines(Bars("channels per layer", rows), Style(80, 24, everything=True)))) == 55
    assert len(list(bar_lines(Bars("channels per layer", rows), Style()))) == 55  # a pipe has no last line


def test_bars_and_names_fit_terminal():
    name = "model.backbone.features.denseblock4.denselayer16.conv2"
    rows = [(name, 1, 4096), ("stem.conv", 24, 48), ("head", 4096, 4096)]
    for columns in (40, 80, 200):
        lines = list(bar_lines(Bars("channels per layer", rows), Style(columns, 24)))
        assert max(map(len, lines)) <= columns and "1 of 4,096" in lines[1]
        assert columns == 40 or ("█" in lines[1] and lines[3].count("█") >= 16)
        assert columns == 200 or "..." in lines[1]
    plain = list(bar_lines(Bars("channels per layer", rows), Style(80, 24, unicode=False)))
    assert all(line.isascii() for line in plain) and "#" in plain[2]


def test_color_is_for_terminals_only(monkeypatch, capsys):
    file = FINISHED_RUN / "model.safetensors"
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in run_show(capsys, file)[1]
    monkeypatch.setattr("common.show.sys.stdout.isatty", lambda: True, raising=False)
    assert show.terminal_style(False).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not show.terminal_style(False).color


def test_table_shortens_widest_column():
    lines = aligned(["run", "n"], [["a" * 50 + "end", "1"], ["b", "22"]], 30)
    assert max(map(len, lines)) <= 30 and lines[1].split()[0].endswith("end") and lines[2].endswith(" 22")


def test_names_and_numbers_are_formatted():
    assert sorted(["seed10", "seed9", "seed1/b"], key=natural_key) == ["seed1/b", "seed9", "seed10"]
    assert [amount(value) for value in (1234567, 0.25, 0.0123, 10**400, 0)] == [
        "1,234,567",
        "0.25",
        "0.0123",
        "inf",
        "0",
    ]


# ---------------------------------------------------------------------------------------------------------------- commands


def test_subcommand_is_installed():
    assert SUBCOMMANDS["show"].module == "common.show"


def test_run_folder_records_command_as_typed(tmp_path, monkeypatch):
    for words, expected in (
        (["python", "-m", "common.train", "--out", "my run"], "python -m common.train --out 'my run'"),
        (["python", "/venv/bin/compression-papers", "train", "--epochs", "2"], "compression-papers train --epochs 2"),
        (["python", "main.py"], "python main.py"),
        (["python", "-c", "print()"], None),
        (["python"], None),
    ):
        monkeypatch.setattr(sys, "orig_argv", words)
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of a test of notebooks in this process
        assert typed_command() == expected
        open_stage(tmp_path, "common", {})
        assert json.loads((tmp_path / "config.json").read_text())["command"] == expected
