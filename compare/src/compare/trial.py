"""Run one trial of a sweep (``python -m compare.trial``, started by NNI): get its value, run the command, report the metric."""

import os
import sys
import threading
import time
from pathlib import Path

from common import cli
from common.executor import ProcessPool, run_command
from common.interruption import STOPPED
from common.runs import read_json
from compare.sweep import PROCESS, SETTINGS, begin_trial, end_trial, fill_command, trial_folder, working_folder

WATCH_SECONDS = 1.0  # between two looks at the processes that started this one


def main() -> int:
    end_with_parents()
    statuses: list[int] = []
    return cli.run(lambda _: statuses.append(run_trial()), []) or statuses[0]


def run_trial() -> int:
    """Run the command, record its exit status in the trial's folder, and return it."""
    import nni

    settings = read_json(Path(os.environ[SETTINGS]))
    value = str(nni.get_next_parameter()["value"])
    record = begin_trial(settings, value)
    processes: ProcessPool[str] = ProcessPool()
    with processes:
        command = fill_command(settings["command"], value, trial_folder(settings["out"], value))
        processes.start(value, run_command, command, working_folder(settings))
        ((_, result),) = processes.finish()
    metric = end_trial(settings, value, record, result.status)
    if metric is not None:
        nni.report_final_result(metric)
    return result.status


def end_with_parents() -> None:
    """End this process, and with it the command of the trial, when the sweep, NNI's manager or the shell of the trial ends.

    On another machine, only the process that started this one is watched.
    """
    if PROCESS not in os.environ:  # not started by a sweep
        return
    import psutil

    parents = psutil.Process().parents()
    numbers, sweep = [parent.pid for parent in parents], int(os.environ[PROCESS])
    watched = parents[: numbers.index(sweep) + 1 if sweep in numbers else 1]

    def watch() -> None:
        try:
            while all(parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE for parent in watched):
                time.sleep(WATCH_SECONDS)
        finally:  # also if a process ends between two calls
            os._exit(STOPPED)  # the processes of ProcessPool end with this one, and their commands with them

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
