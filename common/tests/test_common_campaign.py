"""Campaigns: plans, finished jobs by options and digests, interruptions, collecting and merging pieces."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import torch

from common.campaign import collect as pack
from common.campaign.campaign_folder import CampaignFolder, identities
from common.campaign.command import parse_extra_options
from common.campaign.estimate import Estimates, epoch_seconds
from common.campaign.plan import find_weights, read_plan, resolve, select_jobs
from common.campaign.run import Runner
from common.campaign.settings import main
from common.campaign.worker import JobSpec, lists_option, with_options, without_speed_ups
from common.checkpoint import load_model, read_checkpoint, save_model, write_half
from common.checkpoint_header import INDEX
from common.errors import UserError
from common.models import create_model

TRAIN = "python -m common.train --arch lenet5 --dataset digits --epochs {epochs} --learning-rate 0.02 --threads 1 --no-latency --out {{out}}"


def plan(tmp_path: Path, text: str, name: str = "plan.toml") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def job(name: str, run: str, **more) -> str:
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in {"name": name, "run": run, **more}.items() if key != "each"
    ]
    if "each" in more:
        lines.append("each = {" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in more["each"].items()) + "}")
    return "[[job]]\n" + "\n".join(lines) + "\n"


def test_grid_expands_to_one_job_per_point(tmp_path):
    text = job("d", "python x.py") + job(
        "a/{t}-{s}",
        "python x.py --t {t} --s {s} --from {d} --out {out}",
        each={"t": [0.7, 0.8], "s": ["x"]},
        needs=["d"],
    )
    jobs = read_plan(plan(tmp_path, text))
    assert [j.name for j in jobs] == ["d", "a/0.7-x", "a/0.8-x"]
    outputs = {j.name: Path("/c/runs") / j.out for j in jobs}
    words = resolve(jobs[1], outputs)
    assert words == tuple("python x.py --t 0.7 --s x --from /c/runs/d --out /c/runs/a/0.7-x".split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job = 3", "job expects tables"),
        ("defaults = 3", "defaults expects a table"),
        ("include = 'a.toml'", "include expects a list of files"),
        (job("a/{t}", "python x.py {t}", each={"t": 3}), "each expects a list of values"),
        (job("a", "python x.py", priority="high"), "priority expects a number"),
        (job("a", "python x.py", hours=True), "hours expects a number"),
        (job("a", "python x.py", tags="ab"), "tags expects a list of strings"),
        (job("a", "python x.py", keep=[1]), "keep expects a list of strings"),
        (job("a", "python x.py") + job("a/b", "python x.py"), "is inside the folder of a"),
        ("[[job]]\nname = 'a'", "a name and a command"),
        ("speed = 1", "unknown keys speed"),
        (job("a", "python x.py", color="red"), "unknown keys color"),
        (job("../a", "python x.py"), "invalid job name"),
        (job("a", "python x.py", out="../b"), "invalid folder name"),
        (job("a", "rm -rf /"), "a command must begin with python"),
        (job("a", "python -m"), "a command must begin with python"),
        (job("a", "python x.py 'open"), "quotation"),
        (job("a", "python x.py") * 2, "duplicate job name 'a'"),
        (job("a", "python x.py", needs=["b"]), "not a job of this plan"),
        (job("a", "python x.py {b}"), "neither a value of `each` nor a job"),
        (job("a", "python x.py", each={"t": [1]}), "must contain the values of `each`"),
        (job("a", "python x.py", needs=["b"]) + job("b", "python x.py", needs=["a"]), "circular dependency"),
        ("include = ['plan.toml']", "includes itself"),
        ("include = ['nowhere.toml']", "no such plan"),
        ("[defaults]\nepochs = {a = 1}", "expected a number, a string"),
        ("a = [", "invalid TOML"),
    ],
)
def test_invalid_plan_raises(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_plan(plan(tmp_path, text))


def test_plan_includes_and_selects_jobs(tmp_path):
    (tmp_path / "paper").mkdir()
    plan(
        tmp_path / "paper",
        job("dense", "python x.py") + job("p", "python x.py", needs=["dense"], tags=["t"]) + job("q", "python x.py"),
    )
    jobs = read_plan(
        plan(tmp_path, 'include = ["paper/plan.toml"]\nonly = ["t"]\n' + job("own", "python x.py", tags=["t", "u"]))
    )
    assert [(j.name, j.package) for j in jobs] == [("dense", "paper"), ("p", "paper"), ("own", tmp_path.name)]
    assert [j.name for j in select_jobs(jobs, ["t", "u"])] == ["own"]
    assert [j.name for j in select_jobs(jobs, ["t"])] == ["dense", "p", "own"]
    with pytest.raises(UserError, match="--only v: no job has this tag; available: t, u"):
        select_jobs(jobs, ["v"])


def test_missing_weights_are_trained_or_reported(tmp_path, monkeypatch):
    text = job("a", "python x.py {weights:resnet20}") + job("b", "python x.py {weights:resnet20} {weights:lenet5}")
    names = {j.name: j for j in read_plan(plan(tmp_path, text))}
    assert set(names) == {"dense/resnet20", "a", "b"}
    assert names["a"].needs == ("dense/resnet20",) and names["a"].problem is None
    assert "no trained weights of lenet5" in names["b"].problem
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "data" / "weights" / "resnet20-12fca82f.th").touch()
    (found, _) = read_plan(plan(tmp_path, text))
    assert found.needs == () and resolve(found, {})[2].endswith("data/weights/resnet20-12fca82f.th")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "resnet20.safetensors").touch()
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "own"))
    assert find_weights(tmp_path, "resnet20") == tmp_path / "own" / "resnet20.safetensors"


def test_authors_file_of_conv3x3_network_is_found_first(tmp_path):
    """``cifar10/pre-train`` holds the authors' networks, whose shortcuts are 3x3 convolutions."""
    for file in ("data/weights/resnet56-4bfd9763.th", "weights/resnet56-conv3x3.safetensors"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert find_weights(tmp_path, "resnet56-conv3x3") == tmp_path / "weights/resnet56-conv3x3.safetensors"
    (tmp_path / "cifar10" / "pre-train").mkdir(parents=True)
    (tmp_path / "cifar10/pre-train/resnet56-weights.pth").touch()
    assert find_weights(tmp_path, "resnet56-conv3x3") == tmp_path / "cifar10/pre-train/resnet56-weights.pth"
    assert find_weights(tmp_path, "resnet56") == tmp_path / "data/weights/resnet56-4bfd9763.th"


def test_options_are_added_to_commands_that_accept_them(tmp_path):
    text = "  --epochs N\n  --dataset D\n  --dataset-dir DIR\n --amp"
    assert (
        lists_option(text, "--epochs")
        and lists_option(text, "--dataset")
        and not lists_option(text, "--data")
        and not lists_option(text, "--epoch")
    )
    words = ("python", "x.py", "--dataset", "cifar10", "--dataset-dir", "here", "--amp")
    order = JobSpec(
        "a",
        words,
        ".",
        "log",
        options=(("--amp", ()), ("--epochs", ("9",))),
        extra=(("--epochs", ("1",)), ("--penalty", ("5",))),
    )
    found, known = with_options(order, text)
    assert found == (*words, "--epochs", "9", "--epochs", "1") and known == ("--epochs",)
    other = JobSpec("a", words, ".", "log", extra=(("--dataset", ("digits",)),))
    assert with_options(other, text)[0] == ("python", "x.py", "--dataset", "cifar10", "--amp", "--dataset", "digits")
    assert without_speed_ups(["x", "--amp", "--graph", "auto", "--epochs", "3", "--compile"]) == ("x", "--epochs", "3")
    (typed,) = read_plan(plan(tmp_path, job("a", "python x.py --epochs=3 --amp --rate=-1 word=1")))
    assert typed.command == ("python", "x.py", "--epochs", "3", "--amp", "--rate=-1", "word=1")
    assert parse_extra_options(["--a", "1", "2", "--b", "--c=3"]) == (("--a", ("1", "2")), ("--b", ()), ("--c", ("3",)))
    with pytest.raises(UserError, match="does not follow an option"):
        parse_extra_options(["word"])


def test_job_is_done_by_options_and_digests(tmp_path):
    weights = tmp_path / "data" / "weights" / "resnet20.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"1")
    file = plan(
        tmp_path,
        job("a", "python x.py {weights:resnet20}") + job("b", "python x.py", needs=["a"]) + job("c", "python x.py"),
    )
    folder = CampaignFolder(tmp_path / "out")

    def now(*extra) -> dict[str, str]:
        return identities(read_plan(file), extra, False)

    first = now()
    folder.finish("a", {"identity": first["a"]})
    assert folder.is_done("a", now()["a"])
    weights.write_bytes(b"2")
    changed = now()
    assert {name for name in first if first[name] != changed[name]} == {"a", "b"}  # b needs a
    assert not folder.is_done("a", changed["a"])
    assert set(now(("--epochs", ("1",))).values()).isdisjoint(changed.values())
    assert now(("--keep-every", ("9",)), ("--threads", ("1",))) == changed
    some = identities(read_plan(file), (("--epochs", ("1",)),), False, {"a": ("--epochs",), "c": ()})
    assert some["a"] != changed["a"] and some["b"] != changed["b"] and some["c"] == changed["c"]
    assert now(("--epochs", ("1",)), ("--amp", ())) == now(("--amp", ()), ("--epochs", ("1",)))


def test_output_of_other_options_is_moved_to_stale(tmp_path):
    (only,) = read_plan(plan(tmp_path, job("a/b", "python x.py")))
    folder = CampaignFolder(tmp_path / "out")
    for identity in ("1", "1", "2", "3"):
        folder.record_request(only, identity, shared=False)
        folder.output(only).mkdir(parents=True, exist_ok=True)
        (folder.output(only) / identity).touch()
    assert [p.name for p in folder.output(only).iterdir()] == ["3"]
    assert (tmp_path / "out/stale/a/b-0/1").exists() and (tmp_path / "out/stale/a/b-1/2").exists()


def test_missing_weights_of_all_networks_of_the_papers_are_trained(tmp_path):
    """The learning rate of networks without batch norm is lower."""
    archs = "vgg16 vgg19 resnet56 resnet110 densenet40 googlenet resnet50 vgg16_imagenet alexnet".split()
    jobs = {
        j.name: j.command
        for j in read_plan(plan(tmp_path, job("a", "python x.py " + " ".join(f"{{weights:{a}}}" for a in archs))))
    }
    assert jobs.keys() == {"a", *(f"dense/{arch}" for arch in archs)}
    for arch, rate in {"googlenet": "0.1", "resnet50": "0.1", "vgg16_imagenet": "0.01", "alexnet": "0.01"}.items():
        words = jobs[f"dense/{arch}"]
        assert words[words.index("--arch") + 1] == arch and words[words.index("--learning-rate") + 1] == rate


def test_estimates_use_logs_then_table(tmp_path):
    text = (
        job("dense/x", "python -m common.train --arch vgg16 --epochs 10 --amp")
        + job("y", "python x.py", hours=2)
        + job("z", "python x.py")
    )
    x, y, z = read_plan(plan(tmp_path, text))
    estimates = Estimates(tmp_path / "speeds.json", "cpu")
    assert estimates.seconds(x) == 60 + 10 * 468 and estimates.seconds(y) == 7200 and estimates.seconds(z) is None
    log = tmp_path / "run" / "log.csv"
    log.parent.mkdir()
    log.write_text("epoch,seconds\n1,100\n2,110\n")
    assert epoch_seconds(log.parent) == [100, 110] == epoch_seconds(tmp_path) and epoch_seconds(tmp_path / "none") == []
    assert estimates.remaining_seconds(x, log.parent) == 8 * 105 + 60
    estimates.record_speed(x, log.parent, "cpu (a processor)")
    assert Estimates(tmp_path / "speeds.json", "cpu").seconds(x) == 60 + 10 * 105
    assert Estimates(tmp_path / "speeds.json", "cpu", options=(("--epochs", ("2",)),)).seconds(x) == 60 + 2 * 105


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        ("--dataset-dir {data:cifar100}", 60 + 10 * 954),
        ("--dataset cub200", None),
        ("--dataset-dir {data:imagenet}", None),
    ],
)
def test_table_of_speeds_is_used_for_cifar_only(tmp_path, data, seconds):
    (only,) = read_plan(plan(tmp_path, job("x", f"python x.py --arch vgg16 --epochs 10 {data}")))
    assert Estimates(tmp_path / "speeds.json", "cpu").seconds(only) == seconds


def test_targets_that_comparison_does_not_reach_are_accepted(tmp_path):
    text = job("a", "python -m compare --seeds 0 --out {out}") + job("b", "python x.py")
    file = plan(tmp_path, text)
    jobs, folder = read_plan(file), CampaignFolder(tmp_path / "out")
    runner = Runner(jobs, identities(jobs, (), False), folder, Estimates(tmp_path / "speeds.json", "cpu"))
    assert [runner._job_spec(one).options for one in jobs] == [(("--accept-unreachable", ()),), ()]


# --- real runs


def campaign(file: Path, out: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "common.campaign", "run", str(file), "--out", str(out), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    STARTED.append(process)
    return process


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_remaining_processes():
    """Kill campaigns of failed tests; workers exit with their parent."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()
    STARTED.clear()


def results(out: Path) -> dict[str, object]:
    """Return the results of a campaign without times: weights as bytes, metrics without seconds, logs without the last column."""
    found: dict[str, object] = {}
    for path in sorted((out / "runs").rglob("*")):
        name = str(path.relative_to(out))
        if path.name == "metrics.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.name == "log.csv":
            found[name] = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        elif path.name == "model.safetensors":
            found[name] = path.read_bytes()
    return found


def child_of(process: subprocess.Popen) -> int | None:
    """Return the process id of a campaign's worker; None if it has not started."""
    children = psutil.Process(process.pid).children()
    return next((child.pid for child in children if "spawn_main" in " ".join(child.cmdline())), None)


def wait_for(what, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Run a plan of two jobs and a third that fails; return (plan, folder, output)."""
    root = tmp_path_factory.mktemp("campaign")
    run = TRAIN.format(epochs=6)
    text = job("one", run, keep=["model.safetensors"], priority=2) + job("two", f"{run} --checkpoint", needs=["one"])
    text += job("three", TRAIN.format(epochs=1) + " --seed 1", keep=["model.safetensors"])
    file = plan(root, text)
    process = campaign(file, root / "whole")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 2, printed
    return file, root / "whole", printed


def test_failing_job_is_retried_and_does_not_stop_others(uninterrupted):
    _, whole, printed = uninterrupted
    assert printed.count("failed    two: error: argument --checkpoint: expected one argument") == 2
    assert "2 of 3 jobs done; failed: two: error:" in printed
    assert "1 of 3 jobs failed: two" in printed.splitlines()[-1]
    assert (whole / "jobs/one/done").is_file() and (whole / "jobs/three/done").is_file()
    assert not (whole / "jobs/two/done").exists() and "--checkpoint" in (whole / "jobs/two/failed").read_text()
    assert "$ python -m common.train --arch lenet5" in (whole / "jobs/one/log.txt").read_text()


def test_second_call_runs_only_failed_job(uninterrupted, capsys):
    file, whole, _ = uninterrupted
    before = results(whole)
    process = campaign(file, whole)
    printed, _ = process.communicate(timeout=300)
    assert "started   one" not in printed and "started   two" in printed
    assert results(whole) == before
    assert main(["status", str(whole)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["done", "failed", "done"]


def test_killed_worker_and_parent_resume_to_same_results(uninterrupted, tmp_path):
    file, whole, _ = uninterrupted
    out = tmp_path / "killed"
    log = out / "runs" / "one" / "log.csv"
    process = campaign(file, out)
    wait_for(log.is_file)
    os.kill(child_of(process), signal.SIGKILL)  # the worker: the campaign starts another one, which resumes
    wait_for(lambda: "resumes" in (out / "jobs/one/log.txt").read_text() or len(epoch_seconds(log.parent)) > 2)
    process.kill()  # the parent: its worker exits by itself
    process.communicate()
    left = campaign(file, out)
    printed, _ = left.communicate(timeout=300)
    assert results(out) == results(whole), printed


def test_deadline_and_sigterm_stop_after_epoch_and_resume(uninterrupted, tmp_path):
    file, whole, _ = uninterrupted
    out = tmp_path / "stopped"
    log = out / "runs" / "one" / "log.csv"
    process = campaign(file, out)
    wait_for(log.is_file)
    os.killpg(process.pid, signal.SIGTERM)  # also reaches the workers, which then get a second signal from the parent
    printed, _ = process.communicate(timeout=120)
    assert (
        process.returncode == 75
        and "stopped   one; the next call resumes it" in printed
        and "jobs are unfinished" in printed
    )
    assert not (out / "jobs/one/done").exists() and (out / "runs/one/state.pt").is_file()
    minute = campaign(file, out, "--minutes", "0.001")
    printed, _ = minute.communicate(timeout=120)
    assert minute.returncode == 75, printed
    last = campaign(file, out)
    last.communicate(timeout=300)
    assert results(out) == results(whole)


def test_workers_have_lowest_priority_and_the_campaign_has_its_own(uninterrupted, tmp_path):
    process = campaign(uninterrupted[0], tmp_path / "nice", "--nice")
    wait_for(lambda: (child := child_of(process)) is not None and os.getpriority(os.PRIO_PROCESS, child) == 19)
    assert os.getsid(child_of(process)) != os.getsid(process.pid)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)


def test_merged_pieces_restore_results(uninterrupted, tmp_path, capsys):
    file, whole, _ = uninterrupted
    assert main(["collect", str(whole), "--to", str(tmp_path / "pieces"), "--mib", "2"]) == 0
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert 1 < len(pieces) <= 8 and all(piece.stat().st_size <= 2 * 2**20 for piece in pieces)
    assert main(["merge", *map(str, pieces), "--into", str(tmp_path / "there")]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["one", "three"]
    for name in ("one", "three"):
        before, after = (load_model(root / "runs" / name / "model.safetensors") for root in (whole, tmp_path / "there"))
        for (key, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
            assert a.dtype == b.dtype and torch.allclose(a, b, rtol=2**-11, atol=1e-7), key
        assert (tmp_path / "there/runs" / name / "metrics.json").read_bytes() == (
            whole / "runs" / name / "metrics.json"
        ).read_bytes()
    again = campaign(file, tmp_path / "there")
    printed, _ = again.communicate(timeout=120)
    assert "started   one" not in printed and "started   three" not in printed  # merged jobs are done
    (tmp_path / "there/jobs/one/done").write_text('{"identity": "of different options"}')
    assert main(["merge", *map(str, pieces), "--into", str(tmp_path / "there")]) == 2
    assert "different options" in capsys.readouterr().err


def test_files_that_do_not_fit_are_reported(uninterrupted, tmp_path, capsys):
    _, whole, _ = uninterrupted
    assert main(["collect", str(whole), "--to", str(tmp_path), "--mib", "1", "--files", "1"]) == 0
    printed = capsys.readouterr().out
    assert "left out" in printed and "runs/one/model" in printed and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "jobs/../../evil", "other/file", "runs\\..\\evil", "evil"])
def test_hostile_piece_raises(tmp_path, name, capsys):
    with zipfile.ZipFile(tmp_path / "piece-1.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    assert main(["merge", str(tmp_path / "piece-1.zip"), "--into", str(tmp_path / "there")]) == 2
    assert "not a piece of a campaign" in capsys.readouterr().err and not (tmp_path / "there").exists()


def script(folder: Path, name: str, options: str, body: str = "pass") -> None:
    """Write a script with these options and without heavy imports."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["import argparse, sys", "parser = argparse.ArgumentParser()"]
    lines += [f"parser.add_argument({option!r})" for option in options.split()]
    (folder / name).write_text("\n".join([*lines, "args = parser.parse_args()", body]))


def test_scripts_with_same_name_are_distinguished_and_unknown_options_raise_early(tmp_path):
    """Two packages may have a main.py; a mistyped option does not invalidate finished jobs."""
    for name, options in (("one", "--epochs --out"), ("two", "--out")):
        script(tmp_path / name, "main.py", options)
        plan(tmp_path / name, job(name, "python main.py --out {out}"))
    file = plan(tmp_path, 'include = ["one/plan.toml", "two/plan.toml"]')
    process = campaign(file, tmp_path / "out", "--epochs", "1")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "--epochs is not an option of the commands of two" in printed, printed
    assert "--epochs 1" in (tmp_path / "out/jobs/one/done").read_text()
    without = campaign(file, tmp_path / "out")
    printed, _ = without.communicate(timeout=120)  # nothing has changed for "two", which does not accept --epochs
    assert "started   one" in printed and "started   two" not in printed
    dry = campaign(file, tmp_path / "out", "--epochs", "1", "--penalty", "3", "--dry-run")
    printed, _ = dry.communicate(timeout=120)
    assert dry.returncode == 2 and "--penalty: no command of this plan accepts this option" in printed
    campaign(file, tmp_path / "out", "--epochs", "1").communicate(timeout=120)
    typo = campaign(file, tmp_path / "out", "--epochs", "1", "--penalty", "3")
    printed, _ = typo.communicate(timeout=120)
    assert typo.returncode == 2 and "error: --penalty: no command of this plan accepts this option" in printed
    folder = CampaignFolder(tmp_path / "out")
    assert all(folder.is_done(job["name"], job["identity"]) for job in folder.jobs())


def test_job_with_deleted_files_runs_again(tmp_path, capsys):
    body = "import pathlib; out = pathlib.Path(args.out); out.mkdir(parents=True); (out / 'm.bin').write_text('1')"
    script(tmp_path, "x.py", "--out", body)
    file, out = plan(tmp_path, job("a", "python x.py --out={out}", keep=["*.bin"])), tmp_path / "out"
    campaign(file, out).communicate(timeout=120)
    (out / "runs/a/m.bin").unlink()
    (out / "runs/a/finished").touch()  # by which its command would skip the run as finished
    assert main(["status", str(out)]) == 0 and "kept files are missing" in capsys.readouterr().out
    printed, _ = campaign(file, out).communicate(timeout=120)
    assert "done      a" in printed and (out / "runs/a/m.bin").is_file() and (out / "stale/a-0/finished").is_file()


def test_alone_job_runs_without_others(tmp_path):
    """Run four jobs, three at a time; each writes its start and end time."""
    body = "import time, pathlib; start = time.time(); time.sleep(0.4)\n"
    body += "pathlib.Path(args.out).write_text(f'{start} {time.time()}')"
    script(tmp_path, "x.py", "--out", body)
    text = "".join(job(name, f"python x.py --out {tmp_path}/{name}.txt", alone=name == "b") for name in "abcd")
    process = campaign(plan(tmp_path, text), tmp_path / "out", "--jobs", "3")
    printed, _ = process.communicate(timeout=120)
    times = {name: tuple(map(float, (tmp_path / f"{name}.txt").read_text().split())) for name in "abcd"}
    start, end = times.pop("b")
    assert all(other_end <= start or end <= other_start for other_start, other_end in times.values()), (printed, times)


def test_exit_message_is_kept_and_stopped_job_is_not_restarted(tmp_path):
    script(tmp_path, "says.py", "--out", "sys.exit('out of luck')")
    script(tmp_path, "stops.py", "--out", "sys.exit(75)")
    process = campaign(plan(tmp_path, job("a", "python says.py") + job("b", "python stops.py")), tmp_path / "out")
    printed, _ = process.communicate(timeout=120)
    assert (
        printed.count("failed    a: out of luck") == 2 and printed.count("stopped   b; the next call resumes it") == 1
    ), printed
    assert process.returncode == 75


def test_status_sums_the_seconds_of_all_calls(tmp_path, capsys):
    """The first call stops after half a second, the second one finishes; a third job's campaign was killed in between."""
    body = "import pathlib, time; mark = pathlib.Path('called'); time.sleep(0.5 * (not mark.exists()))"
    script(tmp_path, "twice.py", "--out", f"{body}; first = not mark.exists(); mark.touch(); sys.exit(75 * first)")
    script(tmp_path, "once.py", "--out")
    file, out = plan(tmp_path, job("a", "python twice.py") + job("b", "python once.py --out {out}")), tmp_path / "out"
    for status in (75, 0):
        process = campaign(file, out)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == status, printed
        if status:
            assert json.loads((out / "jobs/a/asked").read_text())["seconds"] >= 0.5
    record = json.loads((out / "jobs/a/done").read_text())
    assert 0.5 <= record["seconds"] < 60 and "seconds" not in json.loads((out / "jobs/a/asked").read_text())
    (out / "jobs/a/done").write_text(json.dumps({**record, "seconds": 720.0}))
    (out / "runs/b/net").mkdir(parents=True)
    (out / "runs/b/net/metrics.json").write_text('{"seconds": 564.6}')
    assert main(["status", str(out)]) == 0
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "0.20 h" in rows["a"] and "0.16 h" in rows["b"]
    for damaged in ("{", "[]"):
        (out / "runs/b/net/metrics.json").write_text(damaged)
        assert main(["status", str(out)]) == 0 and "0.16 h" not in capsys.readouterr().out


def test_damaged_record_raises_or_is_rewritten(tmp_path, capsys):
    script(tmp_path, "x.py", "--out")
    file, out = plan(tmp_path, job("a", "python x.py --out {out}")), tmp_path / "out"
    campaign(file, out).communicate(timeout=120)
    for content in ("[]", '{"jobs": 3}', '{"jobs": [{}]}', "{"):
        (out / "plan.json").write_text(content)
        assert main(["status", str(out)]) == 2 and "damaged" in capsys.readouterr().err
    (out / "speeds.json").write_text('{"cpu": {"lenet5": "x"}}')
    (out / "jobs/a/done").write_text('{"seconds": "x"}')
    (out / "jobs/a/asked").write_text("garbage")
    (out / "runs/a").mkdir(parents=True)
    (out / "runs/a/old").touch()
    process = campaign(file, out)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "1 of 1 jobs done" in printed, printed
    assert (out / "stale/a-0/old").exists()  # because its options are unknown


def test_merge_moves_unfinished_job_to_stale_and_keeps_others(tmp_path):
    def campaign_of(root: Path, name: str, done: bool) -> CampaignFolder:
        folder = CampaignFolder(root)
        (root / "runs" / name).mkdir(parents=True)
        (root / "runs" / name / "log.csv").write_text(root.name)
        entry = {"name": name, "out": name, "package": "p", "keep": [], "needs": [], "tags": [], "identity": "1"}
        (root / "plan.json").write_text(json.dumps({"jobs": [*folder.jobs(), entry]}))
        (root / "jobs" / name).mkdir(parents=True)
        if done:
            folder.finish(name, {"identity": "1"})
        return folder

    there = campaign_of(tmp_path / "there", "x", done=True)
    here = campaign_of(tmp_path / "here", "x", done=False)
    campaign_of(tmp_path / "here", "y", done=True)
    pieces, _ = pack.collect(there, tmp_path / "pieces", 8, 2**20)
    assert pack.merge(pieces, here.root) == ["x"]
    assert (here.root / "runs/x/log.csv").read_text() == "there" and (
        here.root / "stale/x-0/log.csv"
    ).read_text() == "here"
    assert {job["name"] for job in here.jobs()} == {"x", "y"} and here.is_done("y", "1")
    raw = bytearray(pieces[0].read_bytes())
    raw[raw.index(b"plan.json") + len("plan.json") + 4] ^= 1  # in its content
    pieces[0].write_bytes(raw)
    with pytest.raises(UserError, match="piece"):
        pack.merge(pieces, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_half_precision_and_shards_load_as_float32(tmp_path):
    torch.manual_seed(0)
    model = create_model("lenet5")
    save_model(tmp_path / "m.safetensors", model, classes=list("0123456789"), extra={"note": 1})
    (small,) = write_half(tmp_path / "m.safetensors", tmp_path / "half.safetensors")
    assert small.stat().st_size < 0.55 * (tmp_path / "m.safetensors").stat().st_size
    files = write_half(tmp_path / "m.safetensors", tmp_path / "s.safetensors", shard_bytes=500_000)
    assert (
        len(files) > 2 and files[-1].name == f"s.safetensors{INDEX}" and all(f.stat().st_size < 900_000 for f in files)
    )
    for file in (small, files[-1]):
        loaded = load_model(file)
        header, _ = read_checkpoint(file)
        assert header["classes"][3] == "3" and header["extra"] == {"note": 1}
        for (key, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
            assert b.dtype == torch.float32
            assert torch.equal(b, a.half().float() if a.dim() >= 2 else a), key
    files[0].unlink()
    with pytest.raises(UserError, match="no such file"):
        load_model(files[-1])
    for damage in (
        "{}",
        "[]",
        '{"metadata": {}, "weight_map": {"a": "../m.safetensors"}}',
        '{"metadata": {}, "weight_map": {"a": 1}}',
    ):
        files[-1].write_text(damage)
        with pytest.raises(UserError, match="index|not a checkpoint"):
            load_model(files[-1])


def test_pieces_are_filled_before_new_ones_are_created(tmp_path):
    files = [(tmp_path / str(i)) for i in range(6)]
    for i, file in enumerate(files):
        file.write_bytes(bytes(10_000 * (i + 1)))
    pieces: list = []
    room: list[int] = []
    placed = [pack._place([(f.name, f)], pieces, room, files=2, size=80_000) for f in reversed(files)]
    assert placed == [True, True, False, False, False, True]  # 60, 50 and 10 kB, each with some overhead
    assert len(pieces) == 2 and all(left >= 0 for left in room)
