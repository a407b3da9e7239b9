"""Command-line basics: one-line errors with exit status 2, the version, argument types."""

import argparse
import os
import re
import select
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from numbers import Real
from types import FrameType
from typing import Any, NoReturn

from common.atomic import DISK_ERRORS
from common.errors import UserError, one_line
from common.interruption import STOPPED, Stopped, stop_with_parent

INVALID_INPUT = 2
INTERRUPTED = 130
IMPORT_PAUSE = 0.05  # seconds until Ctrl-C is repeated that arrives during an import
BROKEN_PIPE = 141  # as of a command that SIGPIPE ends
OUT_OF_MEMORY = "out of memory; reduce --batch-size"
TORCH_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show ranges of numbers, and defaults, in ``-h``.

    Not the defaults None, False and empty lists, and none that the help text explains.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help
        plain = default is None or default is False or default == [] or "(default:" in (text or "")
        text = text if plain else super()._get_help_string(action)
        limits = range_of(action.type, action)
        if limits is None or not text:
            return text
        about, default_begins, rest = text.partition(" (default:")
        return f"{about}; {limits}{default_begins}{rest}"


class Parser(argparse.ArgumentParser):
    """Argument parser that shows defaults in ``-h`` and reports errors in one line, with exit status 2."""

    def __init__(self, *args, package: str = "common", **kwargs) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        # argparse takes "-inf" and "-1e-3" for options, and then does not state the range
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf$|nan$)", re.IGNORECASE)
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
            stop_with_parent()
            with _warnings_in_one_line(), _interrupt_after_imports():
                body(argv)
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _print_error(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and is_output_closed():
            return _discard_output()
        return _print_error(describe_os_error(error))
    except MemoryError:
        return _print_error(OUT_OF_MEMORY)
    except RuntimeError as error:
        if not any(text in str(error) for text in TORCH_OUT_OF_MEMORY):
            raise
        return _print_error(OUT_OF_MEMORY)
    except KeyboardInterrupt as stopped:
        if is_output_closed():  # noticed by the thread that shows the progress, here or in a process of a pool
            return _discard_output()
        known = isinstance(stopped, Stopped)
        print(f"{str(stopped) or ('stopped' if known else 'interrupted')}; the same command resumes", file=sys.stderr)
        return STOPPED if known else INTERRUPTED
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings without a line of source text (context manager): it is not at fault, and may be one of the user's."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _interrupt_after_imports() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C when no module is being imported: in torch's C++ code it would abort the process."""
    ours = sys._getframe()

    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None and frame is not ours:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                again = threading.Timer(IMPORT_PAUSE, os.kill, (os.getpid(), number))
                again.daemon = True
                again.start()
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    replaced = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if replaced:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def describe_os_error(error: OSError) -> str:
    """Describe an error of the operating system in one line; for a full disk, with what to do."""
    if error.errno in DISK_ERRORS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; free some space, then run the same command again"
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def is_output_closed() -> bool:
    """Return whether the reader of standard output has closed it."""
    try:
        output, poll = sys.stdout.fileno(), select.poll()
    except (OSError, ValueError):  # not a file
        return False
    poll.register(output, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _discard_output() -> int:
    """Discard what is left to write, since Python flushes at exit, and return the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


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


@dataclass(frozen=True)
class Range:
    """The range of a number, as an argparse type: ``Range(int, 1, 1000)("7") == 7``. ``str`` states it for help and errors.

    Attributes:
        kind: ``int`` or ``float``.
        low: Smallest value, or the limit of smaller ones if ``above``.
        high: Largest value, or the limit of larger ones if ``below``.
        word: A word that is accepted as well, such as "auto", and returned.
        listed: Whether the text is a list of such numbers with commas; the result is then a tuple.
        named: Whether the text is NAME=NUMBER[,NUMBER...]; the result is then (name, tuple).
    """

    kind: type
    low: float
    high: float
    above: bool = False
    below: bool = False
    word: str | None = None
    listed: bool = False
    named: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )  # nan is in no range

    def __str__(self) -> str:
        if self.kind is int:
            text = f"{self.low:,} to {self.high:,}"
        else:
            text = f"{'(' if self.above else '['}{_short(self.low)}, {_short(self.high)}{')' if self.below else ']'}"
        return text + (f", or {self.word}" if self.word else "")

    def __call__(self, text: str) -> Any:
        if text == self.word:
            return text
        if self.named:
            name, equals, numbers = text.partition("=")
            if not name or not equals:
                raise argparse.ArgumentTypeError(f"{shorten(text)} is not of the form NAME=NUMBER[,NUMBER...]")
            return name, replace(self, named=False, listed=True)(numbers)
        if self.listed:
            return tuple(replace(self, listed=False)(number) for number in text.split(","))
        value: Any
        try:
            value = self.kind(text)
        except ValueError:  # also an integer of more digits than Python converts
            value = float("nan")
        if value not in self:
            raise argparse.ArgumentTypeError(f"{shorten(text)} is not {self._description}")
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise UserError if a value is outside the range. name: what it is, for example an option."""
        number: Any = value if isinstance(value, Real) else float("nan")
        if number not in self:
            raise UserError(f"{name} {shorten(str(value))}: must be {self._description}")

    @property
    def _description(self) -> str:
        return f"an integer from {self}" if self.kind is int else f"a number in {self}"


def _short(number: float) -> str:
    return re.sub(r"e\+0*", "e", f"{number:g}")


def shorten(text: str, length: int = 60) -> str:
    """Return a text for a message, cut if it is too long for a line."""
    return text if len(text) <= length else f"{text[: length // 2]}... ({len(text):,} characters)"


def text(value: str) -> str:
    """Return a text that is not empty (argparse type)."""
    if not value.strip():
        raise argparse.ArgumentTypeError("the value is empty; give one, or leave the option out")
    return value


def range_of(*places: Any) -> Range | None:
    """Return the range that the type or the action of an option states; None for other options."""
    found = (place if isinstance(place, Range) else getattr(place, "range", None) for place in places)
    return next((limits for limits in found if isinstance(limits, Range)), None)


# Ranges that several options have. The limits leave room for every use and catch slips: a unit, a sign, a missing point.
positive_int = Range(int, 1, 1_000_000)
nonnegative_int = Range(int, 0, 1_000_000)
IMAGES = Range(int, 1, 100_000_000)
IMAGES_OR_ZERO = Range(int, 0, 100_000_000)
EPOCHS = Range(int, 0, 100_000)
SEED = Range(int, 0, 2**32 - 1)  # the seeds of NumPy
IMAGE_SIDE = Range(int, 1, 16_384)  # channels, height or width
CLASS_NUMBER = Range(int, 0, 1_000_000)
THREADS = Range(int, 1, 1024)
PROCESSES = Range(int, 1, 1024)
WORKERS = Range(int, 0, 256)
DEVICE_NUMBER = Range(int, 0, 1023)
ROUNDING = Range(int, 1, 1024)
fraction = Range(float, 0, 1, above=True)
fraction_or_zero = Range(float, 0, 1)
BELOW_ONE = Range(float, 0, 1, below=True)
BETWEEN = Range(float, 0, 1, above=True, below=True)
TARGET_MACS = Range(float, 0.01, 1, below=True)
TARGET_LATENCY = Range(float, 0.01, 1, below=True)
TARGET_BYTES = Range(float, 0.001, 1, below=True)
LEARNING_RATE = Range(float, 0, 1000)
WEIGHT = Range(float, 0, 1000)  # of a term of a loss, or of the weight decay
SECONDS = Range(float, 0, 1e9)
GIB = Range(float, 0, 65_536)
