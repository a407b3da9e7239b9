"""What the tests of every package share: inputs that are whole and inputs that are broken, kills, processes, refusals.

Plain functions for tests, no pytest plugin: each checks with ``assert`` and says what was wrong. Nothing else in ``common``
imports them. ``common.testing.notebooks`` runs notebooks without a kernel.

>>> killed_and_resumed(command.main, [*words, "--out"], bits, tmp_path, kills=10, preload=["a_paper.command"])
>>> assert refusal(main(["--penalty", "nan"]), capsys.readouterr().err, "nan auto")
"""

from common.testing.campaigns import run_script, script_runs_its_plan, write_tiny_dataset
from common.testing.inputs import (
    factored_resnet20,
    hostile_pickle,
    noise,
    noise_bundle,
    random_network,
    write_broken_inputs,
    write_pictures,
)
from common.testing.kill import killed_and_resumed
from common.testing.methods import run_method
from common.testing.mistakes import full_disk, left_behind, refusal, scripts_refuse
from common.testing.options import check_options_honored, command_names
from common.testing.pages import pages_are_current
from common.testing.processes import calls_of_script, half_batches, in_processes, torchrun
from common.testing.untrusted import HOSTILE_ARGUMENTS, HOSTILE_FACTS, bounded, rejected

__all__ = [
    "HOSTILE_ARGUMENTS",
    "HOSTILE_FACTS",
    "bounded",
    "calls_of_script",
    "check_options_honored",
    "command_names",
    "factored_resnet20",
    "full_disk",
    "half_batches",
    "hostile_pickle",
    "in_processes",
    "killed_and_resumed",
    "left_behind",
    "noise",
    "noise_bundle",
    "pages_are_current",
    "random_network",
    "refusal",
    "rejected",
    "run_method",
    "run_script",
    "script_runs_its_plan",
    "scripts_refuse",
    "torchrun",
    "write_broken_inputs",
    "write_pictures",
    "write_tiny_dataset",
]
