"""Command-line basics: one-line errors with exit status 2, the version, argument types."""

import argparse
import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn

from common.errors import UserError, one_line
from common.interruption import STOPPED, Stopped

INVALID_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # as of a command that SIGPIPE ends


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults in ``-h``, except None, False and empty lists, and unless the help text explains the default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help
        if default is None or default is False or default == [] or "(default:" in (text or ""):
            return text
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Argument parser that shows defaults in ``-h`` and reports errors in one line, with exit status 2."""

    def __init__(self, *args, package: str = "common", **kwargs) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.add_argument("--version", action="version", version=f"%(prog)s {package_version(package)}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} -h)")


def package_version(package: str) -> str:
    """Return the version of a package of this project by its import name; 'source' if it is not installed."""
    try:
        return metadata.version(f"compression-papers-{package.replace('_', '-')}")
    except metadata.PackageNotFoundError:
        return "source"


def run(body: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Call ``body(argv)``, flush the output and return an exit status.

    Programming errors are not caught and keep their traceback.

    Returns:
        0; 2 after invalid input, reported in one line on standard error; 75 if the work stopped to be resumed
        (:mod:`common.interruption`); 130 after Ctrl-C; 141 if the reader of the output, such as ``head``, has closed it.
    """
    try:
        try:
            body(argv)
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _print_error(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return BROKEN_PIPE
        where = f" ({error.filename})" if error.filename else ""
        return _print_error(f"{error.strerror or error}{where}")
    except MemoryError:
        return _print_error("out of memory; reduce --batch-size")
    except Stopped as stopped:
        print(f"{stopped or 'stopped'}; the same command resumes", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return INTERRUPTED
    return 0


def _is_output_closed() -> bool:
    """Return whether the reader of standard output has closed it; if so, discard what is left to write."""
    try:
        output, poll = sys.stdout.fileno(), select.poll()
    except (OSError, ValueError):  # not a file
        return False
    poll.register(output, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes at exit
    return True


def command_line(prog: str, argv: Sequence[str] | None) -> str:
    """Return a command as it can be typed, for logs and result files.

    Args:
        prog: For example "python main.py".
        argv: Arguments; ``sys.argv[1:]`` if None.
    """
    return f"{prog} {shlex.join(sys.argv[1:] if argv is None else argv)}".rstrip()


def _print_error(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return INVALID_INPUT


def positive_int(text: str) -> int:
    """Parse an integer of at least 1 (argparse type)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def nonnegative_int(text: str) -> int:
    """Parse an integer of at least 0 (argparse type)."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def fraction(text: str) -> float:
    """Parse a number in (0, 1] (argparse type)."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def fraction_or_zero(text: str) -> float:
    """Parse a number in [0, 1] (argparse type)."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value
