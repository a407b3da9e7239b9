"""The commands ``python -m common.campaign run|status|collect|merge|tables``; nothing here imports torch."""

from collections.abc import Callable, Sequence

from common.cli import positive_int
from common.errors import UserError
from common.settings import REQUIRED, option, settings, subcommands


@settings
class RunPlan:
    """Do the jobs of a plan; options that it does not know go to the commands that do."""

    plan: str = option(REQUIRED, "a TOML file", "plan")
    out: str = option("runs/campaign", "folder of the campaign")
    minutes: float | None = option(None, "stop after this time; what is unfinished resumes later")
    jobs: int = option(1, "jobs side by side", type=positive_int)
    device: str | None = option(None, "auto, cpu, cuda or cuda:N, for every command that knows it")
    only: list[str] = option(
        [], "jobs with this tag, and what they need; may be repeated", action="append", type=str, metavar="TAG"
    )
    nice: bool = option(False, "give way to everything else on the machine")
    quick: bool = option(False, "the plan's shortest options: to see that everything runs")
    dry_run: bool = option(False, "print jobs, what they need, and how long they take")

    def __post_init__(self) -> None:
        if self.minutes is not None and self.minutes <= 0:
            raise UserError(f"--minutes {self.minutes:g}: more than 0 are needed")


@settings
class Status:
    """What is done, running, unfinished, failed, waiting."""

    folder: str = option(REQUIRED, "folder of a campaign", "folder")


@settings
class Collect:
    """Pack what finished jobs made, and the state of unfinished ones where it fits."""

    folder: str = option(REQUIRED, "folder of a campaign", "folder")
    to: str = option(REQUIRED, "folder for the pieces")
    files: int = option(8, "pieces at most", type=positive_int)
    mib: int = option(16, "MiB of a piece at most", type=positive_int)


@settings
class Merge:
    """Unpack pieces into the folder of a campaign."""

    pieces: list[str] = option(REQUIRED, "files that `collect` wrote", "pieces", nargs="+")
    into: str = option(REQUIRED, "folder of a campaign, made if missing")


@settings
class Tables:
    """Add what finished jobs made to the packages' results, and write their tables again."""

    folder: str = option(REQUIRED, "folder of a campaign", "folder")


def main(argv: Sequence[str] | None = None) -> int:
    from common.campaign import command

    table: dict[str, tuple[type, Callable[..., None]]] = {
        "run": (RunPlan, command.run),
        "status": (Status, command.status),
        "collect": (Collect, command.collect),
        "merge": (Merge, command.merge),
        "tables": (Tables, command.tables),
    }
    about = "A plan's results, as far as the time allows, on any machine."
    return subcommands(table, argv, prog="python -m common.campaign", description=about, rest=("run",))
