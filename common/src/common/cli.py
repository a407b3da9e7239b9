"""What all commands share: one-line errors with status 2, groups of options, the version."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NoReturn

from common.errors import UserError
from common.interruption import STOPPED, Stopped

if TYPE_CHECKING:
    from common.data import DataBundle
    from common.options import Data

MISTAKE = 2
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
    return MISTAKE


def add_data_options(parser: argparse.ArgumentParser, dataset: str = "digits", dataset_dir: str | None = None) -> None:
    """--dataset, --dataset-dir, --normalize, --workers."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        default=dataset,
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or folder:PATH (PATH/train and PATH/val or PATH/test)",
    )
    group.add_argument("--dataset-dir", default=dataset_dir, help="folder of the data set; digits needs none")
    group.add_argument(
        "--normalize", default=None, help="imagenet or cifar10: mean and deviation other than the data set's"
    )
    group.add_argument(
        "--workers", type=not_negative_int, default=2, help="processes that read pictures which do not fit in memory"
    )


def add_run_options(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    """--device, --seed, --threads, --amp, --compile, --force."""
    group = parser.add_argument_group("run")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--seed", type=not_negative_int, default=seed, help="seed of everything that is drawn")
    group.add_argument("--threads", type=int, default=None, help="threads on the CPU; torch's choice if not given")
    group.add_argument("--amp", action="store_true", help="automatic mixed precision (bfloat16)")
    group.add_argument("--compile", action="store_true", help="torch.compile the training step")
    group.add_argument("--force", action="store_true", help="start anew in a run folder that holds another run")


def load_data(args: "Data | argparse.Namespace") -> "DataBundle":
    """The DataBundle that the options of :func:`add_data_options` name."""
    from common.data import load_dataset

    return load_dataset(args.dataset, args.dataset_dir, normalize=args.normalize)


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def not_negative_int(text: str) -> int:
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
