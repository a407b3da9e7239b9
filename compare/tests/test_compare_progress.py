"""What ``compare`` says while it works: the plan, about how long, the dense network, each phase, and what is missing."""

from dataclasses import replace

import pytest
from compare_helpers import BYTES, LEADING, RECIPE
from test_compare_command import run, tiny_network  # noqa: F401 (a fixture)

from common import cli, progress, testing
from common.atomic import write_json
from common.data import load_data
from common.errors import UserError
from common.executor import JobResult
from common.interruption import STOPPED
from common.methods import installed_methods
from common.settings import parse
from common.testing import write_image_folder
from common.training.step_time import Speed
from compare import command, job_loop
from compare.comparison_jobs import comparison_jobs
from compare.estimate import TimeEstimate
from compare.plan import describe_plan, make_plan, planned_missing, result_folders, write_plan
from compare.settings import Compare

METHODS = {"leading": LEADING, "bytes": BYTES}
ONE = ("--methods", "leading", "--target-macs", "0.5", "--finetune-epochs", "1")
TWO = ("--methods", "leading", "--target-macs", "0.5", "0.3", "--finetune-epochs", "0")


def test_plan_time_and_dense_network_come_before_any_result(tmp_path, capsys):
    argv = ("--target-macs", "0.7", "0.5", "--target-bytes", "0.5", "--finetune-epochs", "1", "--seeds", "0", "1")
    assert run(tmp_path, *argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "Plan: 6 results",
        "  1 method x 2 targets x 2 seeds: leading; 70 and 50 % of the MACs",
        "  1 method x 1 target x 2 seeds: bytes; 50 % of the bytes",
        "  trained: the dense network (tiny, 2 epochs, once per seed); something of their own by bytes; every pruned network (1 epoch "
        "of fine-tuning)",
    ]
    assert lines[4].startswith("  threads: ") and lines[5].startswith("  time: about ") and "ms/image" in lines[5]
    phases = ["dense network, seed 0: train", "dense network, seed 0: measure"]
    assert lines[6:8] == phases and lines[8].startswith("Dense network, seed 0: top-1 ")
    assert " MACs, " in lines[8] and lines[8].endswith(" bytes")
    row = "[1/6] seed 0  leading-macs0.7"
    assert lines[9:12] == [f"{row}: {phase}" for phase in ("prune", "fine-tune", "measure")]
    assert lines[12].startswith(f"{row}: 6") and " left)" in lines[12]
    later = [i for i, line in enumerate(lines) if line.startswith(("Dense network, seed 1", "[4/6]"))]
    assert len(later) > 1 and lines[later[0]].startswith("Dense network, seed 1")
    assert run(tmp_path, *argv) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0] == "Plan: 6 results, all finished" and not any("time: about" in line for line in again)
    assert [line.endswith("(finished before)") for line in again if line.startswith("[")] == [True] * 6


def test_dense_network_at_chance_level_is_pointed_out_before_results(tmp_path, capsys):
    with pytest.warns(UserWarning, match="chance level"):
        run(tmp_path, *ONE, "--baseline-epochs", "0")
    lines = capsys.readouterr().out.splitlines()
    dense = next(line for line in lines if line.startswith("Dense network"))
    assert dense.endswith("; AT CHANCE LEVEL: train it first, or check the classes and the normalization")
    assert lines.index(dense) < next(i for i, line in enumerate(lines) if line.startswith("[1/1]"))


def test_bars_carry_method_and_target(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    monkeypatch.setattr(progress, "DRAW", 0.002)
    assert run(tmp_path, *ONE) == 0
    printed = capsys.readouterr()
    assert "\r[1/1] seed 0  leading-macs0.5" in printed.err and "epoch " in printed.err
    assert "[1/1] seed 0  leading-macs0.5: prune\n" not in printed.out, "a line per phase is only for logs"


@pytest.mark.parametrize(
    ("argv", "sizes", "left_out"),
    [
        ([], [0.1, 0.05, 0.03], []),
        (["--dataset", "digits", "--target-bytes"], [], ["bytes"]),
        (["--dataset", "cifar10"], [], ["bytes"]),
        (["--dataset", "cifar10", "--methods", "all"], [], ["bytes"]),
        (["--dataset", "cifar10", "--target-bytes", "0.2"], [0.2], []),
        (["--dataset", "cifar10", "--methods", "bytes"], [0.1, 0.05, 0.03], []),
        (["--dataset", "cifar10", "--methods", "leading"], [], []),
        (["--dataset", "cifar10", "--chain", "leading,bytes", "--target-macs", "0.5"], [0.1, 0.05, 0.03], []),
    ],
)
def test_bytes_are_targets_on_digits_or_when_asked_for(argv, sizes, left_out):
    plan = make_plan(parse(Compare, ["--seeds", "0", *argv]), METHODS)
    assert [job.targets["bytes"] for job in plan.jobs if "bytes" in job.targets] == sizes
    assert list(plan.left_out) == left_out


def test_plan_names_given_network_and_says_that_nothing_is_trained():
    settings = parse(Compare, ["--methods", "leading", "--weights", "mine.pth", "--target-macs", "0.5", "--seeds", "0"])
    lines = describe_plan(make_plan(settings, METHODS), settings, None, replace(RECIPE, epochs=0))
    assert lines[-2:] == ["  dense network: mine.pth", "  trained: nothing"]


def test_chain_without_target_raises():
    argv = ["--dataset", "cifar10", "--methods", "leading", "--chain", "leading,bytes", "--target-bytes"]
    with pytest.raises(UserError, match="--chain leading,bytes: no target fits"):
        make_plan(parse(Compare, argv), METHODS)


def test_incomplete_comparison_says_so_in_last_line_page_and_status(tmp_path, monkeypatch, capsys):
    real, done = job_loop.run_job, []

    def interrupt(job, *rest):
        if done:
            raise KeyboardInterrupt
        done.append(job)
        return real(job, *rest)

    monkeypatch.setattr(job_loop, "run_job", interrupt)
    assert run(tmp_path, *TWO) == 130
    assert capsys.readouterr().err == "interrupted; 1 of 2 results are finished; the same command resumes\n"
    assert run(tmp_path, "--report-only") == 2
    missing = "1 of 2 results are missing; not computed yet: leading-macs0.3, seed 0 (repeat their command, or delete plan.json to drop them)"
    printed = capsys.readouterr()
    assert testing.single_error_line(2, printed.err) == f"error: {missing}" and f"incomplete: {missing}" in printed.out
    for name in ("report.html", "report.md"):
        assert missing in (tmp_path / name).read_text(), name
    monkeypatch.setattr(job_loop, "run_job", real)
    assert run(tmp_path, *TWO) == 0 and run(tmp_path, "--report-only") == 0
    assert "are missing" not in (tmp_path / "report.html").read_text() + capsys.readouterr().out


def test_damaged_plan_costs_one_line(tmp_path):
    write_json(tmp_path / "plan.json", {"jobs": [{"methods": "l1", "targets": {}, "seed": 0}]})
    with pytest.raises(UserError, match=r"plan\.json: damaged: .*; delete this file, and"):
        planned_missing(tmp_path)


def test_commands_that_share_a_folder_add_to_its_plan_and_have_their_own_status(tmp_path):
    other = comparison_jobs({"leading": LEADING}, [0], [0.4], [])
    write_plan(tmp_path, other, False)  # of another command, which is still running
    assert run(tmp_path, *ONE) == 0
    assert planned_missing(tmp_path).startswith(
        "1 of 2 results are missing; not computed yet: leading-macs0.4, seed 0 ("
    )
    assert run(tmp_path, "--methods", "leading", "--target-macs", "0.4", "0.5", "--finetune-epochs", "1") == 0
    assert planned_missing(tmp_path) == ""


def test_unreachable_targets_are_accepted_by_command_or_report(tmp_path):
    (job,) = comparison_jobs({"leading": LEADING}, [0], [0.4], [])
    write_json(tmp_path / "seed0" / job.name / "unreachable.json", {"reason": "none"})
    write_plan(tmp_path, [job], False)
    assert "1 of 1 results are missing; unreachable: leading-macs0.4, seed 0" in planned_missing(tmp_path)
    assert planned_missing(tmp_path, accept_unreachable=True) == ""
    write_plan(tmp_path, [job], True)
    assert planned_missing(tmp_path) == ""


def estimate(out, targets, seeds, seconds, processes=1, **more):
    """Return the seconds left for two methods, given {(method, target, seed): seconds} of finished results."""
    methods = {name: LEADING for name in ("fast", "slow")}
    jobs = comparison_jobs(methods, seeds, targets, [])
    for job in jobs:
        took = seconds.get((job.methods[0], job.targets["macs"], job.seed))
        if took:
            write_json(result_folders(job, out)[-1] / "metrics.json", {"seconds": took})
    return TimeEstimate(out, methods, RECIPE, None, False, 1000, 100, Speed(0.01, 20), processes, **more).left(jobs)


def test_results_predict_those_of_same_method_and_target(tmp_path):
    done = {("fast", 0.5, 0): 10, ("slow", 0.5, 0): 100}
    assert estimate(tmp_path, [0.5], [0, 1], done) == pytest.approx(110)
    assert estimate(tmp_path, [0.5], [0, 1], done, processes=2) == pytest.approx(100), (
        "no shorter than its longest part"
    )
    assert estimate(tmp_path, [0.5], [0, 1, 2], done, processes=2) == pytest.approx(110)
    assert estimate(tmp_path, [0.5], [0], done) == 0


def test_method_without_results_is_predicted_by_the_machine_and_its_target(tmp_path):
    before = estimate(tmp_path, [0.5], [0], {})
    assert 0 < estimate(tmp_path, [0.3], [0], {}) < before, "fewer MACs are faster"
    half = before / 2  # of what a training step lets expect
    after = estimate(tmp_path, [0.5], [0], {("fast", 0.5, 0): 10 * half})
    assert after == pytest.approx(10 * half), "the machine is ten times slower than estimated"


def test_resumed_comparison_keeps_its_number_of_threads(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(command, "set_threads", asked.append)
    monkeypatch.setattr(command, "free_cores", lambda: (7, "of 8 cores, 7.0 are idle"))
    for name, content in (("config.json", {"environment": {"threads": 3}}), ("metrics.json", {})):
        write_json(tmp_path / "seed0" / "baseline" / name, content)
    settings = parse(Compare, ["--methods", "leading", "--seeds", "0", "--jobs", "1", "--out", str(tmp_path)])
    plan = make_plan(settings, METHODS)
    assert command._set_up(settings, plan) == (1, 3)
    assert f"threads: 3 (as in {tmp_path})" in capsys.readouterr().out
    monkeypatch.setattr(command, "free_cores", lambda: (1, "OMP_NUM_THREADS"))
    assert command._set_up(settings, plan) == (1, 1)
    monkeypatch.setattr(command, "free_cores", lambda: (7, "of 8 cores, 7.0 are idle"))
    (tmp_path / "seed0" / "baseline" / "metrics.json").unlink()
    assert command._set_up(settings, plan) == (1, 7) and asked == [7, 3, 1, 1, 7, 7]
    assert "threads: 7 (of 8 cores, 7.0 are idle)" in capsys.readouterr().out
    given = parse(Compare, ["--methods", "leading", "--threads", "2", "--jobs", "2", "--out", str(tmp_path)])
    assert command._set_up(given, plan) == (2, 2)
    assert "threads: 2 in each of 2 processes (--threads)" in capsys.readouterr().out


def test_process_of_several_prints_its_lines_with_numbers_of_the_plan(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(command, "installed_methods", installed_methods)
    monkeypatch.setattr(command, "load_data", load_data)
    images = write_image_folder(tmp_path / "images", classes=2, train=6, test=2)
    argv = f"--arch lenet5 --dataset folder:{images} --methods random --target-macs 0.5 --seeds 0 --baseline-epochs 0"
    argv += f" --finetune-epochs 1 --no-latency --out {tmp_path / 'out'}"
    settings = parse(Compare, argv.split())
    assert command._run_in_processes(settings, argv.split(), 1, 1) == []
    lines = capfd.readouterr().out.splitlines()
    assert "1 process starts" in lines
    row = "[1/1] seed 0  random-macs0.5"
    assert [line.partition(" % of")[0] for line in lines if line.startswith("[")][:3] == [
        f"{row}: {phase}" for phase in ("prune", "fine-tune", "measure")
    ]
    assert lines[-1].startswith(f"{row}: ") and not any(line.startswith("Dense") for line in lines[-4:])


def test_comparison_ends_quietly_when_nobody_reads_lines_of_its_processes(tmp_path, monkeypatch, capsys):
    class Pool:
        def __init__(self, setup):
            self.stopped = False

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731
        start = lambda self, *job: None  # noqa: E731

        def stop(self):
            self.stopped = True

        def finish(self):
            yield 0, JobResult(cli.BROKEN_PIPE)
            assert self.stopped, "the others are not awaited"
            yield 1, JobResult(STOPPED)

    monkeypatch.setattr(command, "ProcessPool", Pool)
    monkeypatch.setattr(cli, "is_output_closed", lambda: True)
    monkeypatch.setattr(cli, "_discard_output", lambda: cli.BROKEN_PIPE)
    assert run(tmp_path, *ONE, "--jobs", "2") == 141 and capsys.readouterr().err == ""
