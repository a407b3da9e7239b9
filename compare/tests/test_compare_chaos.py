"""A full disk and kills during a write: comparisons and trials of sweeps end with the files of an undisturbed run."""

import sys
import types
from pathlib import Path

import pytest
from compare_helpers import BYTES, LEADING, bundle, tiny

from common import executor
from common.models import ARCHITECTURES, Architecture
from common.testing import check_full_disk_and_kills
from common.testing.fixed_latency import fixed_latency
from compare import charts, command, latency, sweep, trial
from compare.settings import main

RUN = [
    "--dataset",
    "grays",
    "--arch",
    "tiny",
    "--baseline-epochs",
    "2",
    "--batch-size",
    "16",
    "--device",
    "cpu",
    "--jobs",
    "1",
]
RUN += ["--seeds", "0", "1", "--target-macs", "0.5", "--target-bytes", "0.5", "--finetune-epochs", "1"]
PRELOAD = ["test_compare_chaos", "compare.command", "compare.page", "compare.charts", "altair"]


def run_compare(words: list[str]) -> int:
    ARCHITECTURES["tiny"] = Architecture(lambda num_classes=4: tiny(), (3, 8, 8))
    command.load_data = lambda options: bundle()
    command.installed_methods = lambda: {"leading": LEADING, "bytes": BYTES}
    latency.measure_latency = fixed_latency
    charts.javascript = lambda: "// no plots: two seconds for each process"
    return main(words)


class SerialPool:
    """Run jobs at once, in this process, with the public names of ProcessPool that a trial uses."""

    def __enter__(self):
        self.results = []
        return self

    def __exit__(self, *error) -> None:
        pass

    def start(self, job, function, *arguments) -> None:
        self.results.append((job, executor.JobResult(status=function(*arguments))))

    def finish(self):
        return self.results


def run_sweep(words: list[str]) -> int:
    """Run a sweep whose trials are comparisons, all in this process: what is left of NNI is the order of the calls."""

    def run_experiment(settings, out: Path, content) -> None:
        trial.os.environ[sweep.SETTINGS] = str(out / "sweep.json")
        for value in settings.values:
            nni = types.SimpleNamespace(
                get_next_parameter=lambda value=value: {"value": value}, report_final_result=lambda metric: None
            )
            sys.modules["nni"] = nni
            status = trial.main()
            assert status in (0, 2)

    sweep._run_experiment = run_experiment
    trial.ProcessPool = SerialPool
    trial.run_command = lambda argv, folder: run_compare(argv[3:])
    values = ["--values", "0.5", "0.3"]
    targets = ["--target-macs", "{value}", "--target-bytes"]
    command_words = [
        "python",
        "-m",
        "compare",
        *RUN[: RUN.index("--seeds")],
        "--seeds",
        "0",
        *targets,
        "--out",
        "{out}",
    ]
    return sweep.main([*values, *words, "--", *command_words])


@pytest.mark.parametrize("run", [run_compare, run_sweep])
def test_disturbed_comparison_ends_with_same_files(run, tmp_path):
    words = [*RUN, "--out"] if run is run_compare else ["--out"]
    timed = ["sweep.json", "trial.json", "results.csv"]
    check_full_disk_and_kills(run, words, tmp_path, preload=PRELOAD, timed=timed, nested=run is run_sweep)
