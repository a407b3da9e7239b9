"""What all commands share: one-line errors with status 2, groups of options, the version."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn

from common.errors import UserError
from common.interruption import STOPPED, Stopped

INVALID_INPUT = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults in ``-h`` and says what is wrong in one line, with exit status 2."""

    def __init__(self, *args, package: str = "common", **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.add_argument("--version", action="version", version=f"%(prog)s {package_version(package)}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} -h)")


def package_version(package: str) -> str:
    """Version of one of this project's packages by its import name; 'source' when it runs uninstalled."""
    try:
        return metadata.version(f"compression-papers-{package.replace('_', '-')}")
    except metadata.PackageNotFoundError:
        return "source"


def run(body: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Call ``body(argv)`` and return an exit status: 0, or 2 after one line on standard error about a mistake.

    Programming errors are not caught: they keep their traceback. Ctrl-C gives 130; work that stopped in order to be resumed
    (:mod:`common.interruption`) gives 75.
    """
    try:
        body(argv)
    except UserError as error:
        return _refuse(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _refuse(f"{error.strerror or error}{where}")
    except MemoryError:
        return _refuse("not enough memory; a smaller --batch-size needs less")
    except Stopped as stopped:
        print(f"{stopped or 'stopped'}; the same command resumes", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted; the same command resumes where it was", file=sys.stderr)
        return INTERRUPTED
    return 0


def command_line(prog: str, argv: Sequence[str] | None) -> str:
    """A command as it can be typed again, for logs and result files; prog: "python main.py", argv: as ``main`` got it."""
    return f"{prog} {shlex.join(sys.argv[1:] if argv is None else argv)}".rstrip()


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return INVALID_INPUT


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def nonnegative_int(text: str) -> int:
    """An argparse type: an integer of at least 0, such as a seed."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def fraction(text: str) -> float:
    """An argparse type: a number in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def share(text: str) -> float:
    """An argparse type: a number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value
