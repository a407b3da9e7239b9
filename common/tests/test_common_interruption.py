"""Deadlines, signals and saved state: training stops between two epochs and resumes bit-identical."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from common import cli, interruption, runs, train
from common.data import load_dataset
from common.interruption import DEADLINE, STOPPED, Stopped, defer_signals, stop_requested
from common.models import create_model
from common.runs import LOG, STATE
from common.training import Hooks, TrainOptions, best_test_top1, fit
from common.training.step import Step, can_capture, cuda_settings, make_optimizer

OPTIONS = TrainOptions(epochs=3, batch_size=100, learning_rate=0.05)


@pytest.fixture(scope="module")
def few():
    return load_dataset("digits").train.subset(torch.arange(200))


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("lenet5", in_channels=3, image_size=32)


def bits(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


def test_training_stops_at_deadline_and_resumes_bit_identical(few, tmp_path, monkeypatch):
    uninterrupted, stopped = small(), small()
    fit(uninterrupted, few, OPTIONS, folder=tmp_path / "uninterrupted")
    monkeypatch.setenv(DEADLINE, str(time.time() - 1))
    with pytest.raises(Stopped, match="stopped after epoch 1 of 3"):
        fit(stopped, few, OPTIONS, folder=tmp_path / "stopped")
    # the duration of an epoch is known: no other one starts
    with pytest.raises(Stopped, match="stopped after epoch 1 of 3"):
        fit(small(), few, OPTIONS, folder=tmp_path / "stopped")
    monkeypatch.delenv(DEADLINE)
    resumed = small()
    assert [row["epoch"] for row in fit(resumed, few, OPTIONS, folder=tmp_path / "stopped")] == [1, 2, 3]
    assert torch.equal(bits(resumed), bits(uninterrupted)) and not torch.equal(bits(resumed), bits(stopped))


def test_last_epoch_is_not_stopped(few, tmp_path, monkeypatch):
    monkeypatch.setenv(DEADLINE, str(time.time() - 1))
    assert len(fit(small(), few, replace(OPTIONS, epochs=1), folder=tmp_path)) == 1


def test_work_beyond_deadline_requests_stop(monkeypatch):
    monkeypatch.setenv(DEADLINE, str(time.time() + 100))
    assert not stop_requested() and not stop_requested(50) and stop_requested(150)
    monkeypatch.setenv(DEADLINE, "tomorrow")
    assert not stop_requested(1e9)


def test_sigterm_saves_state_after_current_epoch(few, tmp_path):
    epochs = []

    def after_epoch(epoch: int) -> dict:
        epochs.append(epoch)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        fit(small(), few, replace(OPTIONS, keep_every=1000), folder=tmp_path, hooks=Hooks(after_epoch=after_epoch))
    assert epochs == [0, 1] and (tmp_path / STATE).is_file()
    assert signal.getsignal(signal.SIGTERM) is before and not stop_requested()


def test_signal_in_last_epoch_stops_next_stage(few, tmp_path):
    """Training is complete and is not repeated; the command does not start its next stage."""

    def after_epoch(epoch: int) -> dict:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    options = replace(OPTIONS, epochs=1)
    with pytest.raises(Stopped):
        fit(small(), few, options, folder=tmp_path, hooks=Hooks(after_epoch=after_epoch))
    log = (tmp_path / LOG).read_bytes()
    assert len(fit(small(), few, options, folder=tmp_path)) == 1 and (tmp_path / LOG).read_bytes() == log


def test_sigterm_from_group_and_parent_counts_once():
    with pytest.raises(Stopped), defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()


def test_second_signal_interrupts_immediately(monkeypatch):
    monkeypatch.setattr(interruption, "SAME_SIGNAL", 0.0)
    with pytest.raises(KeyboardInterrupt), defer_signals((signal.SIGTERM,)), defer_signals((signal.SIGTERM,)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not stop_requested()


def test_other_threads_do_not_change_signal_handlers():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with defer_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_stopped_command_reports_how_to_resume(capsys):
    def body(argv):
        raise Stopped("stopped after epoch 1 of 3")

    assert cli.run(body) == STOPPED == 75
    assert capsys.readouterr().err == "stopped after epoch 1 of 3; the same command resumes\n"


def test_state_is_saved_at_most_once_per_interval(few, tmp_path, monkeypatch):
    writes = []
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: (writes.append(len(content["rows"])), real(content, file)))
    for every, expected in ((None, [1, 2, 3]), (0, [1, 2, 3]), (1000, [3])):
        writes.clear()
        folder = tmp_path / str(every)
        fit(small(), few, replace(OPTIONS, keep_every=every), folder=folder)
        assert writes == expected and len((folder / LOG).read_text().splitlines()) == 4


def test_test_set_is_evaluated_every_nth_and_last_epoch(few, tmp_path):
    rows = fit(small(), few, replace(OPTIONS, epochs=5, evaluate_every=2), test=few, folder=tmp_path)
    assert [row["test_top1"] is not None for row in rows] == [False, True, False, True, True]
    assert best_test_top1(rows) == max(row["test_top1"] for row in (rows[1], rows[3], rows[4]))
    assert best_test_top1([]) is None
    assert (tmp_path / LOG).read_text().splitlines()[1].count(",,") == 1  # two empty cells


def test_train_command_resumes_with_other_runtime_options(tmp_path, monkeypatch, capsys):
    words = ["--dataset", "digits", "--arch", "lenet5", "--epochs", "2", "--threads", "1", "--out", str(tmp_path)]
    monkeypatch.setenv(DEADLINE, str(time.time() - 1))
    assert train.main([*words, "--no-latency"]) == STOPPED
    monkeypatch.delenv(DEADLINE)
    assert train.main([*words, "--no-latency", "--evaluate-every", "5", "--keep-every", "9", "--deterministic"]) == 0
    metrics = runs.read_json(tmp_path / "metrics.json")
    assert "latency_ms" not in metrics["baseline"] and metrics["baseline"]["top1"] > 20


def test_commit_is_read_from_environment_without_git(monkeypatch):
    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(runs.subprocess, "run", fail)
    monkeypatch.delenv(runs.COMMIT, raising=False)
    assert runs.git_commit() is None
    monkeypatch.setenv(runs.COMMIT, "0123456789ab")
    assert runs.git_commit() == "0123456789ab"


# --- behavior on CUDA that a stand-in reproduces


def test_short_last_batch_is_not_compiled(few, monkeypatch):
    compiled = []

    def compile_network(network, dynamic=None):
        assert dynamic is False

        def call(images):
            compiled.append(len(images))
            return network(images)

        return call

    monkeypatch.setattr(torch, "compile", compile_network)
    fit(small(), few, replace(OPTIONS, epochs=1, batch_size=64, compile=True))
    assert compiled == [64, 64, 64]  # of 200: the last 8 are computed without compilation


def test_emulated_bfloat16_is_not_used(monkeypatch):
    from common.training.step import amp_dtype

    calls = []

    def supported(including_emulation=True):
        calls.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert amp_dtype(torch.device("cuda")) is torch.float16 and calls == [False]
    assert amp_dtype(torch.device("cpu")) is torch.bfloat16


def test_captured_step_fills_learning_rate_tensor(few):
    model = small()
    rate = torch.tensor(0.1)
    optimizer = make_optimizer(model, OPTIONS, rate=rate)
    step = Step(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), OPTIONS, Hooks(), torch.device("cpu"))
    batch = next(few.batches(100))
    step(batch, 0.025)
    assert optimizer.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(0.025)


def test_graph_is_captured_only_if_step_allows():
    cuda, auto = torch.device("cuda"), replace(OPTIONS, graph="auto")
    assert can_capture(auto, Hooks(), cuda)
    assert not can_capture(OPTIONS, Hooks(), cuda)
    assert not can_capture(auto, Hooks(), torch.device("cpu"))
    assert not can_capture(replace(auto, optimizer="adam"), Hooks(), cuda)
    assert not can_capture(replace(auto, compile=True), Hooks(), cuda)
    assert not can_capture(auto, Hooks(after_step=lambda: None), cuda)
    assert not can_capture(auto, Hooks(fixed_shapes=False), cuda)


def test_deterministic_training_uses_deterministic_kernels(monkeypatch):
    """cuDNN does not search for kernels, which could differ after an interruption. The settings are restored."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cuda = torch.device("cuda")
    for deterministic in (True, False):
        with cuda_settings(replace(OPTIONS, deterministic=deterministic), Hooks(), cuda):
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert torch.backends.cudnn.benchmark != deterministic
        assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_saved_state_does_not_change_optimizer_implementation(few, tmp_path):
    """A state saved by a captured step (with a tensor as learning rate) is resumed by a plain one, and vice versa."""
    from common.training.loop import _restore
    from common.training.state import SavedState

    plain, captured = (make_optimizer(small(), OPTIONS, rate=rate) for rate in (None, torch.tensor(0.5)))
    for i, (one, other) in enumerate(((captured, plain), (plain, captured))):
        SavedState(tmp_path / str(i), "train", {"optimizer": one}, torch.device("cpu")).save([{"epoch": 1}], force=True)
        before = other.param_groups[0]["lr"]
        saved = SavedState(tmp_path / str(i), "train", {"optimizer": other}, torch.device("cpu"))
        assert _restore(saved, other) == [{"epoch": 1}]
        assert other.param_groups[0]["lr"] is before


IMPORTED = """
import os, pathlib, signal, sys
from common import cli

def body(argv):
    import interrupted_module
    print("imported", interrupted_module.finished, flush=True)
    for _ in range(10**9):
        pass

raise SystemExit(cli.run(body))
"""
INTERRUPTED_MODULE = """
import os, signal
class CallsPython:  # a callback of C code, which an exception would abort
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
del_me = CallsPython()
del del_me
finished = True
"""


def test_ctrl_c_during_import_is_one_line_after_it(tmp_path):
    """The import is completed, since an exception in torch's C++ code would abort the process."""
    (tmp_path / "interrupted_module.py").write_text(INTERRUPTED_MODULE)
    (tmp_path / "script.py").write_text(IMPORTED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command resumes\n")
    assert done.stdout == "imported True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_command_ends_with_script_that_started_it(number, tmp_path):
    """A shell does not forward signals to the command that it waits for."""
    code = "import time; from common import cli; cli.run(lambda _: print('started', flush=True) or time.sleep(600))"
    script = f'export COMPRESSION_PARENT=$$; (exec {sys.executable} -c "{code}"); true'
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(number)
    assert process.wait(60) == -number
    assert process.stdout.read() == ""  # the end of the file: no process has it open
