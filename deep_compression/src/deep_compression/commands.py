"""The commands of the stages. Each parses, builds and calls; what they do is in `stages`, `report` and `plots`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import cli
from common.atomic import write_json
from common.checkpoint import save_model
from common.cli import positive_int
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.errors import UserError
from common.evaluate import as_table
from common.factory import add_model_options, import_factory, model_from_options
from common.train import main as train_main
from common.training import TrainOptions, add_training_options, training_options
from deep_compression import report as reports
from deep_compression import stages
from deep_compression.compressed import account
from deep_compression.kmeans import INITS
from deep_compression.network_file import SUFFIX, read_network
from deep_compression.plan import ROUNDINGS, RULES, EncodePlan, PrunePlan, Recipe, SharePlan
from deep_compression.sharing import METHODS
from deep_compression.stages import PACKAGE, Setting
from deep_compression.streams import CODERS

PRUNE_TRAINING = TrainOptions(epochs=10, batch_size=128, learning_rate=0.01, weight_decay=5e-4)
SHARE_TRAINING = TrainOptions(epochs=3, batch_size=128, learning_rate=1e-4, weight_decay=0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """The stage is the first word; each stage has its own options (STAGE -h)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    return cli.run(_no_stage, words)


def _no_stage(words: Sequence[str] | None) -> None:
    parser = cli.Parser(prog="python -m deep_compression", description=__doc__, package=PACKAGE)
    parser.add_argument("stage", choices=sorted(COMMANDS), help="what to do; STAGE -h lists its options")
    parser.parse_args(words)


# -------------------------------------------------------------------------------------------------------- stages that train


def _train(argv: Sequence[str]) -> int:
    return train_main(argv)


def _prune(argv: Sequence[str]) -> int:
    return cli.run(lambda words: _stage("prune", words), argv)


def _share(argv: Sequence[str]) -> int:
    return cli.run(lambda words: _stage("share", words), argv)


def _encode(argv: Sequence[str]) -> int:
    return cli.run(lambda words: _stage("encode", words), argv)


def _compress(argv: Sequence[str]) -> int:
    return cli.run(lambda words: _stage("compress", words), argv)


def _stage(name: str, argv: Sequence[str] | None) -> None:
    args = stage_parser(name).parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    with process_group(device):
        data = cli.load_data(args)
        out = Path(args.out or f"runs/{data.name}/{args.arch or 'network'}-{args.seed}")
        network = network_file(name, args, data, out)
        setting = setting_of(args, data, device, baseline_file(args, out, network))
        folder = RUN[name](network, out if name == "compress" else out / name, args, setting)
        if is_main():
            print(summary(folder))


def summary(folder: Path) -> str:
    """Two lines on a finished run."""
    metrics = stages.read_json(folder / "metrics.json")
    dense, small = metrics.get("baseline", metrics["compressed"]), metrics["compressed"]
    rate = f", {metrics['rate']:.2f}x smaller than the dense weights" if "rate" in metrics else ""
    return (
        f"{folder}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, "
        f"{small['nonzero_params']:,} of {small['params']:,} parameters not zero, {small['bytes']:,} bytes{rate}"
    )


def _run_prune(network: Path, out: Path, args: argparse.Namespace, setting: Setting) -> Path:
    stages.prune(network, out, prune_plan(args), training_options(args), setting)
    return out


def _run_share(network: Path, out: Path, args: argparse.Namespace, setting: Setting) -> Path:
    stages.share(network, out, share_plan(args), training_options(args), setting)
    return out


def _run_encode(network: Path, out: Path, args: argparse.Namespace, setting: Setting) -> Path:
    stages.encode(network, out, encode_plan(args), setting)
    return out


def _run_compress(network: Path, out: Path, args: argparse.Namespace, setting: Setting) -> Path:
    share_training = training_options(
        args, epochs=args.share_epochs, learning_rate=args.share_learning_rate, weight_decay=0.0, warmup_epochs=0.0
    )
    recipe = Recipe(prune_plan(args), training_options(args), share_plan(args), share_training, encode_plan(args))
    return stages.compress(network, out, recipe, setting)


BEFORE = {"share": "prune", "encode": "share"}
RUN = {"prune": _run_prune, "share": _run_share, "encode": _run_encode, "compress": _run_compress}


def network_file(stage: str, args: argparse.Namespace, data: DataBundle, out: Path) -> Path:
    """The file to start from: --checkpoint, --weights written once as a checkpoint of ours, or what the stage before left."""
    if args.checkpoint:
        return Path(args.checkpoint)
    before = out / BEFORE[stage] / "model.safetensors" if stage in BEFORE else None
    if before is not None and not args.weights and before.is_file():
        return before
    if not args.weights:
        hint = f"; {before} is not there" if before else ""
        raise UserError(f"say which trained network: --checkpoint FILE, or --arch NAME --weights FILE{hint}")
    path = out / "dense.safetensors"
    model, _ = model_from_options(args, data.num_classes, data.input_shape)
    if is_main():
        save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
    stages.barrier()
    return path


def baseline_file(args: argparse.Namespace, out: Path, network: Path) -> Path:
    """The dense network to compare with: --baseline, else the one that was pruned into OUT/prune, else the given one."""
    if args.baseline:
        return Path(args.baseline)
    pruned = out / "prune" / "metrics.json"
    if pruned.is_file():
        given = Path(stages.read_json(pruned).get("network", ""))
        if given.is_file():
            return given
    return network


def setting_of(args: argparse.Namespace, data: DataBundle, device: torch.device, baseline: Path | None) -> Setting:
    factory = import_factory(args.model, data.num_classes) if args.model else None
    return Setting(
        data, device, args.seed, args.workers, baseline, factory, not args.no_latency, args.force, args.tensorboard
    )


def stage_parser(name: str) -> cli.Parser:
    """The options of one stage, or of all for `compress`."""
    texts = {
        "prune": "Remove weights and train the others, in one round or several.",
        "share": "Cluster the living weights of each layer and train the centroids.",
        "encode": "Write the compressed file and measure what is read back from it.",
        "compress": "Prune, share and encode a trained network.",
    }
    parser = cli.Parser(prog=f"python -m deep_compression {name}", description=texts[name], package=PACKAGE)
    add_model_options(parser)
    cli.add_data_options(parser)
    cli.add_run_options(parser)
    if name != "encode":
        add_training_options(parser, SHARE_TRAINING if name == "share" else PRUNE_TRAINING)
        parser.add_argument(
            "--augment", action=argparse.BooleanOptionalAction, default=True, help="crop and flip training pictures"
        )
    if name in ("prune", "compress"):
        add_prune_options(parser)
    if name in ("share", "compress"):
        add_share_options(parser)
    if name in ("encode", "compress"):
        add_encode_options(parser)
    if name == "compress":
        parser.add_argument(
            "--share-epochs", type=int, default=SHARE_TRAINING.epochs, help="epochs of training the centroids"
        )
        parser.add_argument(
            "--share-learning-rate", type=float, default=SHARE_TRAINING.learning_rate, help="rate of those"
        )
    parser.add_argument(
        "--out", default=None, help="folder that gets a run folder for each stage; runs/DATASET/ARCH-SEED if not given"
    )
    parser.add_argument(
        "--baseline", default=None, help="dense network to compare with; the one that is compressed if not given"
    )
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    return parser


def add_prune_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pruning")
    group.add_argument("--rule", choices=RULES, default="density", help="what --values mean: see the README")
    group.add_argument("--values", type=float, nargs="+", default=[0.3, 0.1], help="one value per round of pruning")
    group.add_argument(
        "--layer",
        action=Named,
        type=str,
        default={},
        metavar="NAME=V[,V...]",
        help="values of one layer; may be repeated",
    )
    group.add_argument("--alive", action="store_true", help="rule std: the deviation of the living weights only")
    group.add_argument(
        "--last-epochs", type=int, default=None, help="epochs of the last round; as the others if not given"
    )


def add_share_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sharing")
    group.add_argument("--method", choices=METHODS, default="kmeans", help="how living weights are clustered")
    group.add_argument("--init", choices=INITS, default="linear", help="where k-means starts")
    group.add_argument(
        "--lloyd-steps",
        type=int,
        default=None,
        help="plain Lloyd steps of k-means; until nothing improves if not given",
    )
    group.add_argument("--conv-bits", type=int, default=8, help="bits per weight of convolutions")
    group.add_argument("--fc-bits", type=int, default=5, help="bits per weight of linear layers")
    group.add_argument(
        "--layer-bits", action=Named, type=str, default={}, metavar="NAME=B", help="bits of one layer; may be repeated"
    )
    group.add_argument(
        "--clusters", type=positive_int, default=None, help="so many clusters in every layer, instead of bits"
    )
    group.add_argument("--bias-bits", type=int, default=None, help="share biases too, with so many bits")
    group.add_argument(
        "--rounding", choices=ROUNDINGS, default="none", help="what centroids, norms and other biases are rounded to"
    )


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("encoding")
    group.add_argument(
        "--index-bits", type=int, default=None, help="bits of a position gap; what makes the file smallest if not given"
    )
    group.add_argument(
        "--order", choices=("auto", "rows", "columns"), default="auto", help="order in which weights are visited"
    )
    group.add_argument("--coder", choices=("auto", *CODERS), default="huffman", help="entropy coder")


class Named(argparse.Action):
    """NAME=VALUE[,VALUE...], collected into a dictionary of tuples of numbers."""

    def __call__(self, parser, namespace, text, option_string=None) -> None:
        name, _, values = text.partition("=")
        try:
            numbers = tuple(float(v) for v in values.split(","))
        except ValueError:
            parser.error(f"{option_string} {text}: expected NAME=NUMBER[,NUMBER...]")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: numbers})


def prune_plan(args: argparse.Namespace) -> PrunePlan:
    return PrunePlan(args.rule, tuple(args.values), args.layer, args.alive, (), args.last_epochs)


def share_plan(args: argparse.Namespace) -> SharePlan:
    bits = {name: int(values[0]) for name, values in args.layer_bits.items()}
    return SharePlan(
        args.method,
        args.init,
        args.conv_bits,
        args.fc_bits,
        bits,
        args.clusters,
        args.bias_bits,
        args.rounding,
        args.lloyd_steps,
    )


def encode_plan(args: argparse.Namespace) -> EncodePlan:
    if args.index_bits is not None and not 1 <= args.index_bits <= 16:
        raise UserError(f"--index-bits {args.index_bits} is not in 1..16")
    return EncodePlan(args.index_bits, args.order, args.coder)


# ---------------------------------------------------------------------------------------------------- stages that only look


def _decode(argv: Sequence[str]) -> int:
    return cli.run(_decode_body, argv)


def _decode_body(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m deep_compression decode",
        description="Turn a compressed file into a checkpoint.",
        package=PACKAGE,
    )
    parser.add_argument("file", help=f"a compressed network (*{SUFFIX})")
    parser.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY of a network that is not in the registry")
    parser.add_argument("--output", default=None, help="checkpoint to write; FILE with .safetensors if not given")
    args = parser.parse_args(argv)
    factory = import_factory(args.model) if args.model else None
    model = read_network(args.file, factory)
    output = Path(args.output or Path(args.file).with_suffix(".safetensors"))
    save_model(output, model, factory=factory)
    print(f"{output}: {sum(t.numel() for t in model.state_dict().values()):,} numbers")


def _evaluate(argv: Sequence[str]) -> int:
    return cli.run(_evaluate_body, argv)


def _evaluate_body(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m deep_compression evaluate",
        description="Accuracy, cost, size and latency of a compressed file or checkpoint.",
        package=PACKAGE,
    )
    parser.add_argument("file", help=f"a compressed network (*{SUFFIX}) or checkpoint")
    parser.add_argument("--baseline", default=None, help="dense network to compare the decisions with")
    parser.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY of a network that is not in the registry")
    parser.add_argument("--json", default=None, help="write the figures to this file too")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    cli.add_data_options(parser)
    cli.add_run_options(parser)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    data = cli.load_data(args)
    factory = import_factory(args.model, data.num_classes) if args.model else None
    baseline = Path(args.baseline) if args.baseline else None
    setting = Setting(data, choose_device(args.device), args.seed, args.workers, baseline, factory, not args.no_latency)
    figures: dict[str, Any] = stages.measure(Path(args.file), setting)["compressed"]
    print(as_table(figures))
    if args.json:
        write_json(args.json, figures)


def _report(argv: Sequence[str]) -> int:
    return cli.run(_report_body, argv)


def _report_body(argv: Sequence[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m deep_compression report", description="The paper's per-layer table of a file.", package=PACKAGE
    )
    parser.add_argument("file", help=f"a compressed network (*{SUFFIX})")
    parser.add_argument("--json", default=None, help="write the table to this file too")
    parser.add_argument("--plots", default=None, help="folder for plots: bits per layer, and a histogram per layer")
    args = parser.parse_args(argv)
    if not Path(args.file).is_file():
        raise UserError(f"{args.file}: no such file")
    try:
        found = account(args.file)
    except ValueError as problem:
        raise UserError(f"{args.file}: {problem}") from problem
    print(reports.as_text(args.file, found))
    if args.json:
        write_json(args.json, reports.as_json(found))
    if args.plots:
        from deep_compression import plots

        for path in plots.draw_file(args.file, found, Path(args.plots)):
            print(path)


COMMANDS = {
    "train": _train,
    "prune": _prune,
    "share": _share,
    "encode": _encode,
    "compress": _compress,
    "decode": _decode,
    "evaluate": _evaluate,
    "report": _report,
}
