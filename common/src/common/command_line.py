"""``compression-papers SUBCOMMAND ...``: every command of this project under one name, which no file of the user can replace.

``python -m common.train`` and the others do the same, but Python looks for ``common`` in the current folder first.
"""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from common import cli
from common.errors import UserError

PROG = "compression-papers"


class Subcommand(NamedTuple):
    """A module with a function ``main(argv, prog) -> exit status``, and what it does."""

    module: str
    about: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "compress": Subcommand("common.compress_command", "make your own network smaller by one method"),
    "compare": Subcommand("compare.settings", "compress one network with all methods, and report"),
    "train": Subcommand("common.train", "train a network"),
    "evaluate": Subcommand("common.evaluate", "measure a network's accuracy, cost, file size and latency"),
    "export": Subcommand("common.export", "write a network as ONNX or as a program of torch.export"),
    "convert": Subcommand("common.convert", "turn a network of TensorFlow into a file of this project"),
    "show": Subcommand("common.show", "describe a file, or list the runs below a folder"),
    "latency": Subcommand("common.latency", "time pruned networks next to the dense one"),
    "profile": Subcommand("common.profile", "time each layer of pruned networks next to the dense one"),
    "sensitivity": Subcommand("common.sensitivity", "show what removing a part of each layer's channels changes"),
    "channels": Subcommand("common.channels.__main__", "list the channels of a network that can be removed, by group"),
    "fetch": Subcommand("common.fetch", "download data sets and trained weights"),
    "campaign": Subcommand("common.campaign.settings", "run a plan of commands, within a time limit, and resume"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        return _run_subcommand(words[0], words[1:])
    return cli.run(_explain, words)


def _run_subcommand(name: str, words: Sequence[str]) -> int:
    """Run a subcommand's module. Its messages name the command as it was typed."""
    module = SUBCOMMANDS[name].module
    if find_spec(module.partition(".")[0]) is None:
        return cli.run(lambda _: _not_installed(name, module), [])
    return import_module(module).main(words, f"{PROG} {name}")


def _not_installed(name: str, module: str) -> None:
    package = module.partition(".")[0]
    raise UserError(f"{name}: the package {package} is not installed; run pip install compression-papers-{package}")


def _explain(words: Sequence[str] | None) -> None:
    """Print the subcommands, or raise UserError for an unknown one."""
    if words and not words[0].startswith("-"):
        near = get_close_matches(words[0], SUBCOMMANDS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"the subcommands are {', '.join(SUBCOMMANDS)}"
        raise UserError(f"{cli.shorten(words[0])}: unknown subcommand; {advice} (see {PROG} -h)")
    parser = cli.Parser(
        prog=PROG,
        usage=f"{PROG} SUBCOMMAND ...",
        description="Compress neural networks by the methods of five papers, and measure the results.",
        epilog=f"{PROG} SUBCOMMAND -h lists the options of a subcommand.",
    )
    places = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND ...", required=True)
    for name, found in SUBCOMMANDS.items():
        places.add_parser(name, help=found.about)
    parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
