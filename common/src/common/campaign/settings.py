"""Options of ``python -m common.campaign run|status|collect|merge|tables``. This module does not import torch."""

from collections.abc import Callable, Sequence

from common.cli import PROCESSES, Range, positive_int
from common.settings import REQUIRED, option, settings, subcommands


@settings
class RunPlan:
    """Run the jobs of a plan. Unknown options are passed on to the commands that accept them."""

    plan: str = option(REQUIRED, "plan (TOML file)", "plan")
    out: str = option("runs/campaign", "campaign folder")
    minutes: float | None = option(
        None, "time limit in minutes; unfinished jobs resume in the next call", type=Range(float, 0, 1e6, above=True)
    )
    jobs: int = option(1, "number of jobs to run in parallel", type=PROCESSES)
    device: str | None = option(None, "device for every command that accepts --device: auto, cpu, cuda or cuda:N")
    only: list[str] = option(
        [],
        "run only jobs with this tag, and their dependencies; repeat the option to require several tags",
        action="append",
        type=str,
        metavar="TAG",
    )
    nice: bool = option(False, "run at the lowest CPU priority")
    quick: bool = option(False, "use the short settings of the plan, to check that every job runs")
    dry_run: bool = option(False, "print the jobs, their dependencies and estimated times; run nothing")


@settings
class Status:
    """List the jobs of a campaign with their states: done, running, unfinished, failed or waiting."""

    folder: str = option(REQUIRED, "campaign folder", "folder")


@settings
class Collect:
    """Pack the results of finished jobs, and the state of unfinished jobs where it fits, into ZIP files."""

    folder: str = option(REQUIRED, "campaign folder", "folder")
    to: str = option(REQUIRED, "output folder for the pieces (ZIP files)")
    files: int = option(8, "maximum number of pieces", type=positive_int)
    mib: int = option(16, "maximum size of a piece, in MiB", type=positive_int)


@settings
class Merge:
    """Unpack pieces into a campaign folder."""

    pieces: list[str] = option(REQUIRED, "ZIP files written by `collect`", "pieces", nargs="+")
    into: str = option(REQUIRED, "campaign folder; created if missing")


@settings
class Tables:
    """Copy the metrics of finished jobs to the packages' results/ folders and regenerate the README tables."""

    folder: str = option(REQUIRED, "campaign folder", "folder")


def main(argv: Sequence[str] | None = None, prog: str = "python -m common.campaign") -> int:
    """Run a campaign command and return its exit status."""
    from common.campaign import command

    table: dict[str, tuple[type, Callable[..., None]]] = {
        "run": (RunPlan, command.run),
        "status": (Status, command.status),
        "collect": (Collect, command.collect),
        "merge": (Merge, command.merge),
        "tables": (Tables, command.tables),
    }
    about = "Run the jobs of a plan on any machine, within a time limit, and resume later."
    return subcommands(table, argv, prog=prog, description=about, rest=("run",))
