"""``compression-papers SUBCOMMAND ...``: every command of this project under one name, which no file of the user can replace.

``python -m common.train`` and the others do the same, but Python looks for ``common`` in the current folder first.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from common import cli
from common.errors import UserError


class Subcommand(NamedTuple):
    """A module with a function ``main(argv) -> exit status``, and what it does."""

    module: str
    about: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "compare": Subcommand("compare.settings", "compress one network with all methods, and report"),
    "train": Subcommand("common.train", "train a network"),
    "evaluate": Subcommand("common.evaluate", "measure a network's accuracy, cost, file size and latency"),
    "export": Subcommand("common.export", "write a network as ONNX or as a program of torch.export"),
    "latency": Subcommand("common.latency", "time pruned networks next to the dense one"),
    "sensitivity": Subcommand("common.sensitivity", "show what removing a part of each layer's channels changes"),
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
    module = SUBCOMMANDS[name].module
    if find_spec(module.partition(".")[0]) is None:
        return cli.run(lambda _: _not_installed(name, module), [])
    return import_module(module).main(words)


def _not_installed(name: str, module: str) -> None:
    package = module.partition(".")[0]
    raise UserError(f"{name}: the package {package} is not installed; run pip install compression-papers-{package}")


def _explain(words: Sequence[str] | None) -> None:
    """Print the subcommands, or raise UserError for an unknown one."""
    width = max(map(len, SUBCOMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {found.about}" for name, found in SUBCOMMANDS.items())
    parser = cli.Parser(
        prog="compression-papers",
        usage="compression-papers SUBCOMMAND ... (-h after a subcommand lists its options)",
        description="Compress neural networks by the methods of five papers, and measure the results.",
        epilog=f"subcommands:\n{listing}",
    )
    parser.add_argument("subcommand", choices=list(SUBCOMMANDS), metavar="SUBCOMMAND", help="one of the list below")
    parser.parse_args(words)
