"""``python -m compare.trial``: one trial of a sweep, started by NNI. Asks for its value, runs the command, reports the figure."""

import os
import subprocess
import sys
from pathlib import Path

from common.runs import read_json
from compare.sweep import SETTINGS, figure_in, filled, trial_folder, working_folder


def main() -> int:
    import nni

    settings = read_json(Path(os.environ[SETTINGS]))
    value = str(nni.get_next_parameter()["value"])
    folder = trial_folder(settings["out"], value)
    command = filled(settings["command"], value, folder)
    status = subprocess.run(command, check=False, cwd=working_folder(settings)).returncode
    figure = figure_in(folder, settings["figure"])
    if status == 0 and figure is not None:
        nni.report_final_result(figure)
    return status


if __name__ == "__main__":
    sys.exit(main())
