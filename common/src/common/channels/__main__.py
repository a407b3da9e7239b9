"""``python -m common.channels --arch resnet20`` prints the channel groups of a network."""

import argparse
import sys
from collections.abc import Sequence

import torch

from common import cli
from common.channels import channel_groups
from common.errors import UserError
from common.factory import add_model_options, model_from_options


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m common.channels", description="Print which channels can only be removed together."
    )
    add_model_options(parser)
    parser.add_argument("--input-shape", type=cli.positive_int, nargs=3, metavar=("C", "H", "W"), help="of one picture")
    args: argparse.Namespace = parser.parse_args(argv)
    model, shape = model_from_options(args)
    shape = tuple(args.input_shape) if args.input_shape else shape
    if shape is None:
        raise UserError("say what this network reads: --input-shape 3 224 224")
    groups = channel_groups(model, torch.zeros(1, *shape))
    for group in groups:
        print(group)
    print(f"{len(groups)} groups, {sum(group.size for group in groups)} channels")


if __name__ == "__main__":
    sys.exit(main())
