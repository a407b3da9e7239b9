"""The commands' options: the seed's, with its defaults and help, and ours beyond them."""

import argparse
from pathlib import Path
from typing import Any

from common import cli
from common.cli import fraction, positive_int
from common.data import DataBundle, load_dataset
from common.errors import UserError
from common.factory import import_factory
from common.models import find_architecture
from redundancy_graph.decide import DECIDERS, HIDDEN
from redundancy_graph.subject import SUFFIX, Subject, open_subject
from redundancy_graph.thresholds import ThresholdAction

PACKAGE = "redundancy_graph"
SEED_DIRS = {"cifar10": "./cifar10/dataset/", "imagenet": "./imagenet/dataset/"}


def add_seed_option(parser: argparse.ArgumentParser, name: str, default: Any, text: str, kind=None) -> None:
    """One option of the seed; the threshold may be several."""
    if name == "--threshold":
        parser.add_argument(name, nargs="+", action=ThresholdAction, default=[default], help=text)
    else:
        parser.add_argument(name, type=kind or type(default), default=default, help=text)


def add_generation_options(parser: argparse.ArgumentParser, mini_batch: bool) -> None:
    """How decisions are made; ``mini_batch``: add the seed's --mini-batch too, where the seed's script lacks it."""
    group = parser.add_argument_group("decisions")
    if mini_batch:
        group.add_argument(
            "--mini-batch", type=positive_int, default=100, help="number of inputs to calculate average similarity"
        )
    group.add_argument(
        "--target-macs", type=fraction, default=None, metavar="F",
        help="fraction of the dense MACs to keep: instead of --threshold, the threshold that meets [0.98 F, F]",
    )  # fmt: skip
    group.add_argument(
        "--decider", choices=DECIDERS, default=DECIDERS[0],
        help="who decides for filters that are tied: the layer nearest to the input, or all of them together",
    )  # fmt: skip
    group.add_argument(
        "--bn-mode", choices=("eval", "train"), default="eval",
        help="batch norm while maps are taken: the network's statistics, or those of the pictures, as the authors",
    )  # fmt: skip
    group.add_argument(
        "--augment", action="store_true", help="crop and flip the pictures that maps are taken of, as the authors"
    )
    group.add_argument(
        "--vgg-hidden", choices=HIDDEN, default=HIDDEN[0],
        help="VGG's hidden linear layer: 512 units, or shrunk to the filters of the last convolution, as the seed",
    )  # fmt: skip


def add_common_options(parser: argparse.ArgumentParser, dataset: str | None) -> None:
    """Which network and pictures, beyond the seed; and the options that all commands of the project have."""
    group = parser.add_argument_group("network and data")
    group.add_argument(
        "--pretrained", default=None, metavar="FILE", help="trained weights, instead of PRETRAIN_DIR/ARCH-weights.pth"
    )
    group.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY, your own network; needs --pretrained")
    group.add_argument(
        "--dataset", default=dataset,
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or folder:PATH; if not given imagenet for networks"
        " that read 224 pixels, else cifar10",
    )  # fmt: skip
    group.add_argument(
        "--normalize", default=None, help="imagenet or cifar10: mean and deviation other than the weights'"
    )
    group.add_argument("--workers", type=int, default=2, help="processes that read pictures which do not fit in memory")
    group.add_argument(
        "--plots", action="store_true", help="draw kept filters per layer, a heat map, accuracy against MACs"
    )
    group.add_argument(
        "--plot-layer", default=None, help="layer of the heat map; the one that loses most filters if not given"
    )
    cli.add_run_options(parser)


def load_subject(args: argparse.Namespace, default_dir: str) -> Subject:
    """The network and pictures that the options name; ``default_dir`` is the script's default of --dataset-dir."""
    if args.model and not args.pretrained:
        raise UserError("--model needs --pretrained FILE, the trained weights of that network")
    if args.model:
        import_factory(args.model)
    else:
        find_architecture(args.arch)
    weights = args.pretrained or Path(args.pretrain_dir) / f"{args.arch}{SUFFIX}"
    if not Path(weights).is_file():  # said before the pictures are read
        raise UserError(f"{weights}: no such file; put the trained weights there, or name them with --pretrained FILE")
    data = _load_data(args, default_dir)
    factory = import_factory(args.model, data.num_classes) if args.model else None
    name = args.model.replace(":", ".") if args.model else args.arch
    return open_subject(args.arch, weights, data, normalize=args.normalize, factory=factory, name=name)


def _load_data(args: argparse.Namespace, default_dir: str) -> DataBundle:
    """A --dataset-dir that is only a default belongs to its own data set: the others have their own place."""
    reads_imagenet = not args.model and find_architecture(args.arch).input_shape[1] == 224
    dataset = args.dataset or ("imagenet" if reads_imagenet else "cifar10")
    root = SEED_DIRS.get(dataset) if args.dataset_dir == default_dir else args.dataset_dir
    return load_dataset(dataset, root, normalize=args.normalize)


def label_of(name: str, threshold: float | None, target_macs: float | None) -> str:
    """What the files of one pruned network are called: ``<arch>-<threshold>``, or ``<arch>-macs<F>`` for a target."""
    return f"{name}-{threshold!r}" if target_macs is None else f"{name}-macs{target_macs!r}"


def labels(name: str, args: argparse.Namespace) -> dict[str, float | None]:
    """{label: threshold}, one entry per network that the options ask for; a threshold still to be found is None."""
    if args.target_macs is not None:
        return {label_of(name, None, args.target_macs): None}
    return {label_of(name, threshold, None): threshold for threshold in args.threshold}
