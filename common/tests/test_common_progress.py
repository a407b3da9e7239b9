"""Bars on a terminal carry a label; elsewhere there is a line per phase and one at least every 30 seconds."""

import os
import pty
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from torch import nn

from common import device, progress
from common.data import MemoryImages
from common.progress import activity, format_duration, note, part, phase, say, track
from common.training import TrainOptions
from common.training.step_time import measure_speed

WORK = """
import time
from common import cli, progress
from common.progress import activity, phase, say, track
{settings}
def work(argv):
    with activity("[2/9] seed 0  l1_norm-macs0.5"), phase("fine-tune"):
        for i in track(range({steps}), "epoch 1/2"):
            time.sleep(0.1)
            if i == 2:
                say("a result")
raise SystemExit(cli.run(work, []))
"""


@pytest.fixture
def lines(monkeypatch):
    """Lines of an activity, whose heartbeat is fast."""
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "SILENCE", 0.05)
    return []


def wait_for(lines, text):
    end = time.monotonic() + 20
    while not any(text in line for line in lines) and time.monotonic() < end:
        time.sleep(0.01)
    assert any(text in line for line in lines), lines


def test_each_phase_is_a_line_and_phases_inside_are_not_shown():
    lines = []
    with activity("[1/3] a method", lines.append):
        with phase("prune"), phase("measure"):
            pass
        with phase("fine-tune"):
            list(track([1], "epoch"))
        with part("step 2 of 2, b"), phase("measure"):
            pass
    prefix = "[1/3] a method"
    assert lines == [f"{prefix}: prune", f"{prefix}: fine-tune", f"{prefix}, step 2 of 2, b: measure"]


def test_silence_is_broken_by_phase_loop_and_counts(lines):
    with activity("[1/3] a method", lines.append), phase("prune"):
        wait_for(lines, "[1/3] a method: prune, after 00:0")
        note("a message of\nthe method")
        wait_for(lines, "[1/3] a method: prune, a message of the method, after 00:0")
        for i in track("abc", "epoch 4/9"):
            if i == "b":
                wait_for(lines, "[1/3] a method: prune, epoch 4/9, 1 of 3, after 00:0")
    assert not any("prune, epoch" in line and "message" in line for line in lines)


def test_nothing_is_printed_by_silent_activity_or_without_one(lines, capsys):
    with activity("a call", None), phase("prune"):
        assert list(track([1, 2], "loop")) == [1, 2]
        note("a message")
        time.sleep(0.1)
    with phase("prune"):
        assert list(track([1, 2], "loop")) == [1, 2]
    assert capsys.readouterr() == ("", "")
    say("a line")
    assert capsys.readouterr().out == "a line\n"


def run_on_terminal(code, columns):
    """Run Python code on a pseudo-terminal and return what it wrote."""
    main, side = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "30"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        written = b""
        with suppress(OSError):  # at the end of the process
            while part := os.read(main, 65536):
                written += part
    os.close(main)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize(("columns", "half", "counts"), [(110, " 50%|", " 3/6 ["), (79, ": 50% [", "<")])
def test_bar_on_terminal_carries_label_and_lines_stand_above_it(columns, half, counts):
    written = run_on_terminal(WORK.format(settings="progress.DRAW = 0.02", steps=6), columns)
    drawn = [text.strip() for text in written.replace("\n", "\r").split("\r")]
    bars = [text for text in drawn if text.startswith("[2/9] seed 0  l1_norm-macs0.5: fine-tune, epoch 1/2:")]
    assert any(half in bar and counts in bar for bar in bars)
    assert max(len(bar.partition("\x1b")[0]) for bar in bars) < columns
    assert f"{progress.CLEAR}a result" in written.replace("\r\r", "\r")
    assert written.rstrip("\r").endswith(progress.CLEAR), "the bar is removed at the end"


def test_work_ends_quietly_when_nobody_reads_its_lines_any_more():
    code = WORK.format(settings="progress.SILENCE = progress.TICK = 0.02", steps=400)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "[2/9] seed 0  l1_norm-macs0.5: fine-tune\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 141, "as after SIGPIPE, long before the loop ends"


def test_process_of_a_pool_ends_quietly_when_nobody_reads_its_lines_any_more(tmp_path):
    code = WORK.format(settings="progress.SILENCE = progress.TICK = 0.02", steps=400)
    code = code.replace("raise SystemExit(cli.run(work, []))", "def job(): return cli.run(work, [])")
    code += (
        "if __name__ == '__main__':\n"
        "    import sys; from common.executor import ProcessPool\n"
        "    with ProcessPool() as pool:\n"
        "        pool.start(0, job)\n"
        "        states = [result.state for _, result in pool.finish()]\n"
        "    print(states, cli.is_output_closed(), file=sys.stderr)\n"
    )
    (tmp_path / "work.py").write_text(code)
    command = [sys.executable, str(tmp_path / "work.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "[2/9] seed 0  l1_norm-macs0.5: fine-tune\n"
        process.stdout.close()
        assert process.stderr.read() == "['stopped'] True\n"
        assert process.wait(20) == 0


def test_long_label_is_cut_in_the_middle():
    assert progress._fit("a" * 30 + "b" * 30, 39) == "a" * 24 + "..." + "b" * 12
    assert progress._fit("short", 41) == "short"


def test_durations_have_precision_of_an_estimate():
    shown = {0.2: "1 s", 7.4: "7 s", 42: "40 s", 100: "2 min", 3000: "50 min", 9000: "2.5 h"}
    assert {seconds: format_duration(seconds) for seconds in shown} == shown


def test_timed_step_changes_neither_network_nor_random_numbers():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    images = MemoryImages(torch.zeros(8, 3, 6, 6, dtype=torch.uint8), torch.arange(8) % 4, flip=True, padding=1)
    before, state = torch.get_rng_state(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    speed = measure_speed(network, images, TrainOptions(epochs=1, batch_size=4), "cpu")
    assert speed.second_per_example > 0 and speed.layers == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("idle", "quota", "cores", "about"),
    [
        (7.6, None, 8, "of 8 cores, 7.6 are idle"),
        (2.4, None, 2, "of 8 cores, 2.4 are idle"),
        (7.6, 1.5, 2, "of a quota of 1.5, 7.6 are idle"),
        (0.1, None, 1, "of 8 cores, 0.1 are idle"),
    ],
)
def test_free_cores_are_idle_and_within_quota(monkeypatch, idle, quota, cores, about):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    monkeypatch.setattr(device, "cpu_quota", lambda group: quota)
    monkeypatch.setattr(device, "_idle_cores", lambda: idle)
    assert device.free_cores() == (cores, about)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert device.free_cores()[0] == min(cores, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert device.free_cores() == (8, "OMP_NUM_THREADS")


def test_torch_keeps_within_quota_unless_a_number_is_given(monkeypatch):
    for name in device.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    numbers = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(device, "cpu_quota", lambda group: None)
    assert device.set_threads(None) == 8
    monkeypatch.setattr(device, "cpu_quota", lambda group: 2.5)
    assert device.set_threads(5) == 5 and device.set_threads(None) == 3 and device.set_threads(None) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    numbers.append(8)
    assert device.set_threads(None) == 8


def test_idle_cores_are_between_none_and_all():
    assert 0 <= device._idle_cores() <= os.cpu_count()


def test_quota_of_both_versions_of_control_groups(tmp_path):
    assert device.cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    for name, value in (("quota", "-1"), ("period", "100000")):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(value)
    assert device.cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert device.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert device.cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert device.cpu_quota(tmp_path) == 2.5
