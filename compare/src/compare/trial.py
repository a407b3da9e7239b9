"""``python -m compare.trial``: one trial of a sweep, started by NNI. Asks for its value, runs the command, reports the figure."""

import os
import sys
from pathlib import Path

from common.executor import Processes, call
from common.interruption import STOPPED, Stopped
from common.runs import read_json
from compare.sweep import SETTINGS, figure_in, filled, trial_folder, working_folder


def main() -> int:
    import nni

    settings = read_json(Path(os.environ[SETTINGS]))
    value = str(nni.get_next_parameter()["value"])
    folder = trial_folder(settings["out"], value)
    command = filled(settings["command"], value, folder)
    try:
        processes: Processes[str] = Processes()
        with processes:
            processes.start(value, call, command, working_folder(settings))
            ((_, result),) = processes.finish()
    except Stopped:
        return STOPPED
    figure = figure_in(folder, settings["figure"])
    if result.status == 0 and figure is not None:
        nni.report_final_result(figure)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
