"""Run one trial of a sweep (``python -m compare.trial``, started by NNI): get its value, run the command, report the metric."""

import os
import sys
from pathlib import Path

from common.executor import ProcessPool, run_command
from common.interruption import STOPPED, Stopped
from common.runs import read_json
from compare.sweep import SETTINGS, fill_command, read_metric, trial_folder, working_folder


def main() -> int:
    import nni

    settings = read_json(Path(os.environ[SETTINGS]))
    value = str(nni.get_next_parameter()["value"])
    folder = trial_folder(settings["out"], value)
    command = fill_command(settings["command"], value, folder)
    try:
        processes: ProcessPool[str] = ProcessPool()
        with processes:
            processes.start(value, run_command, command, working_folder(settings))
            ((_, result),) = processes.finish()
    except Stopped:
        return STOPPED
    metric = read_metric(folder, settings["metric"])
    if result.status == 0 and metric is not None:
        nni.report_final_result(metric)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
