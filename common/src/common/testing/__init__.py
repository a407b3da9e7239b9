"""Test helpers shared by all packages: valid and invalid inputs, killed and resumed commands, processes, error lines.

The helpers are plain functions, not a pytest plugin. They check with ``assert`` and explain failures; the rest of ``common``
does not import them. ``common.testing.notebooks`` runs notebooks without a kernel.

>>> check_resume_after_kill(command.main, [*argv, "--out"], file_bytes, tmp_path, kills=10, preload=["a_paper.command"])
>>> assert single_error_line(main(["--penalty", "nan"]), capsys.readouterr().err, "nan auto")
"""

from common.testing.campaigns import check_script_runs_plan, run_script, write_tiny_dataset
from common.testing.chaos import check_full_disk_and_kills
from common.testing.generated_docs import check_generated_docs
from common.testing.inputs import (
    factored_resnet20,
    hostile_pickle,
    noise_bundle,
    noise_images,
    random_network,
    write_cub200,
    write_image_folder,
    write_invalid_inputs,
    write_photos,
)
from common.testing.invalid_input import assert_scripts_fail, full_disk, leftover_files, single_error_line
from common.testing.options_honored import check_options_honored, command_names
from common.testing.processes import (
    locked_by_another_process,
    record_python_calls,
    run_in_processes,
    split_batches,
    torchrun,
)
from common.testing.resume import check_resume_after_kill
from common.testing.run_method import run_method
from common.testing.stored_commands import check_stored_commands
from common.testing.untrusted import (
    HOSTILE_ARGUMENTS,
    HOSTILE_DATA_FIELDS,
    assert_bounded,
    check_mutations,
    check_rejected,
)

__all__ = [
    "HOSTILE_ARGUMENTS",
    "HOSTILE_DATA_FIELDS",
    "assert_bounded",
    "assert_scripts_fail",
    "check_full_disk_and_kills",
    "check_generated_docs",
    "check_mutations",
    "check_options_honored",
    "check_rejected",
    "check_resume_after_kill",
    "check_script_runs_plan",
    "check_stored_commands",
    "command_names",
    "factored_resnet20",
    "full_disk",
    "hostile_pickle",
    "leftover_files",
    "locked_by_another_process",
    "noise_bundle",
    "noise_images",
    "random_network",
    "record_python_calls",
    "run_in_processes",
    "run_method",
    "run_script",
    "single_error_line",
    "split_batches",
    "torchrun",
    "write_cub200",
    "write_image_folder",
    "write_invalid_inputs",
    "write_photos",
    "write_tiny_dataset",
]
