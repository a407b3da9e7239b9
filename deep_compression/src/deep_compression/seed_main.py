"""``python main.py``: the seed's command line (emedinac/DeepCompression), all stages in a row.

The base network is trained, or loaded; pruned in `--iter` - 1 rounds; shared once for each number of `--lcluster`; and each
of those networks is encoded. Everything is under `--saved-dir`, in run folders and, beside them, as the seed's flat files.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from common import cli
from common.atomic import atomic_file
from common.checkpoint import save_model
from common.data import DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import import_factory, named_model
from common.models import ARCHITECTURES
from common.results import markdown_table
from common.runs import LOG, open_run, read_json
from common.train import train_baseline
from common.training import TrainOptions
from deep_compression import plots, stages
from deep_compression.commands import add_encode_options, encode_plan
from deep_compression.kmeans import INITS
from deep_compression.network_file import is_compressed, read_network
from deep_compression.plan import ROUNDINGS, PrunePlan, SharePlan
from deep_compression.sharing import METHODS
from deep_compression.stages import PACKAGE, Setting

LR1 = ",".join(["0.02", "0.02", "0.015"] + ["0.01"] * 14 + ["0.005"] * 3 + ["0.0025"] * 2 + ["0.001"] + ["0.0001"] * 2)
LR2 = "1e-5,1e-5,1e-4,1e-4,0.005,0.005,0.005,0.001,0.001,0.001,0.001"
BASE = "VGG19_base_10.t7"  # the file that the seed starts from
NAMES = {"vgg19": "VGG19"}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def numbers(text: str) -> tuple[float, ...]:
    """An argparse type: numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers with commas between them") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    values = numbers(text)
    if any(v != int(v) or v < 1 for v in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 on")
    return tuple(int(v) for v in values)


def truth(text: str) -> bool:
    """An argparse type: what the seed meant by type=bool, under which "False" was true."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def build_parser() -> cli.Parser:
    """The seed's options under their names and defaults, then ours."""
    parser = cli.Parser(
        prog="main.py", description="Prune, share and encode a network (Deep Compression).", package=PACKAGE
    )
    seed = parser.add_argument_group("the seed's options")
    seed.add_argument("--lr1", type=numbers, default=numbers(LR1), help="learning rate of each round of pruning")
    seed.add_argument(
        "--lr2", type=numbers, default=numbers(LR2), help="learning rate of sharing, for each number of clusters"
    )
    seed.add_argument(
        "--lrsch_1",
        type=whole_numbers,
        default=(4, 11, 17, 22),
        help="epochs after which lr1 is multiplied by --factor",
    )
    seed.add_argument(
        "--lrsch_2",
        type=whole_numbers,
        default=(8, 13, 18, 23),
        help="epochs after which lr2 is multiplied by --factor",
    )
    seed.add_argument(
        "--lcluster",
        type=whole_numbers,
        default=(4, 5, 7, 9, 11, 13, 15, 18, 20, 25, 35),
        help="clusters per layer, one network for each",
    )
    seed.add_argument("--cluster_method", choices=METHODS, default="GMM", help="how weights are clustered")
    seed.add_argument("--factor", type=float, default=0.2, help="by which learning rates are multiplied")
    seed.add_argument("--epoch", type=int, default=25, help="epochs of each round of pruning and of each sharing")
    seed.add_argument("--iter", type=int, default=25, help="one more than the rounds of pruning, as in the seed")
    seed.add_argument(
        "--apply_pruning",
        type=truth,
        default=False,
        help="prune anew; False uses the pruned network that is there, if one is",
    )
    seed.add_argument("--apply_sharing", type=truth, default=True, help="cluster and encode after pruning")
    seed.add_argument("--gpus", type=int, default=None, help="number of the CUDA device; --device says more")
    ours = parser.add_argument_group("network and data")
    ours.add_argument("--arch", default="vgg19", help=f"one of {', '.join(ARCHITECTURES)}")
    ours.add_argument("--model", default=None, help="PACKAGE.MODULE:FACTORY, your own network")
    ours.add_argument(
        "--pretrained",
        default=None,
        metavar="FILE",
        help=f"trained weights or checkpoint; SAVED_DIR/{BASE} if that is there, else the base is trained",
    )
    ours.add_argument(
        "--saved-dir", default="checkpoint", help="folder of the run folders and of the seed's flat files"
    )
    cli.add_data_options(parser, dataset="cifar10")
    more = parser.add_argument_group("beyond the seed")
    more.add_argument("--batch-size", type=cli.positive_int, default=128, help="pictures per step")
    more.add_argument(
        "--base-epochs", type=int, default=100, help="epochs of the base network, where it has to be trained"
    )
    more.add_argument("--base-learning-rate", type=float, default=0.05, help="its learning rate")
    more.add_argument(
        "--quality", type=float, default=1.0, help="threshold of pruning, in standard deviations of a layer's weights"
    )
    more.add_argument("--alive", action="store_true", help="deviation of the living weights only")
    more.add_argument(
        "--density",
        type=numbers,
        default=None,
        help="shares of each layer that live, one per round, instead of --quality and --iter",
    )
    more.add_argument(
        "--conv-bits", type=int, default=None, help="bits per weight of convolutions, instead of --lcluster"
    )
    more.add_argument(
        "--fc-bits", type=int, default=None, help="bits per weight of linear layers, instead of --lcluster"
    )
    more.add_argument("--bias-bits", type=int, default=None, help="share biases too, with so many bits")
    more.add_argument("--init", choices=INITS, default="linear", help="where kmeans starts")
    more.add_argument(
        "--rounding", choices=ROUNDINGS, default="none", help="what centroids, norms and other biases are rounded to"
    )
    more.add_argument("--no-latency", action="store_true", help="do not measure latency")
    more.add_argument("--plots", action="store_true", help="draw the seed's figures")
    more.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    add_encode_options(parser)
    cli.add_run_options(parser)
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    _check(args)
    set_threads(args.threads)
    device = choose_device(args.device if args.gpus is None or args.device != "auto" else f"cuda:{args.gpus}")
    saved, name = Path(args.saved_dir), args.model.replace(":", ".") if args.model else NAMES.get(args.arch, args.arch)
    with process_group(device):
        data = cli.load_data(args)
        factory = import_factory(args.model, data.num_classes) if args.model else None
        setting = Setting(
            data, device, args.seed, args.workers, None, factory, not args.no_latency, args.force, args.tensorboard
        )
        base = base_network(args, saved, name, setting)
        setting = replace(setting, baseline=base)
        pruned = pruned_network(args, saved, name, base, setting)
        rows = [("base", stages.measure(base, replace(setting, baseline=None, latency=False))["compressed"], 1.0)]
        rows.append((pruned.parent.name, read_json(pruned.parent / "metrics.json")["compressed"], None))
        folders = shared_networks(args, saved, name, pruned, setting) if args.apply_sharing else []
        for folder in folders:
            metrics = read_json(folder / "metrics.json")
            rows.append((folder.parent.name, metrics["compressed"], metrics["rate"]))
        if is_main():
            print(table(rows))
            if args.plots:
                everything = sorted(path.parent for path in saved.glob(f"{name}_Shared*/encode/metrics.json"))
                draw(saved / f"{name}-plots", pruned.parent, everything, rows[0][1]["top1"])


def _check(args: argparse.Namespace) -> None:
    if args.iter < 2 and args.density is None:
        raise UserError(f"--iter {args.iter}: the seed prunes in iter - 1 rounds, so at least 2 is needed")
    rounds = len(args.density) if args.density else args.iter - 1
    if len(args.lr1) < rounds + (args.density is None):
        raise UserError(
            f"--lr1 has {len(args.lr1)} values; one for each of {rounds} rounds is needed, and the seed's first is never used"
        )
    if len(args.lr2) < len(args.lcluster):
        raise UserError(f"--lr2 has {len(args.lr2)} values for {len(args.lcluster)} numbers of clusters")
    if (args.conv_bits is None) != (args.fc_bits is None):
        raise UserError("--conv-bits and --fc-bits are given together, or neither of them")
    if args.epoch < 0 or args.base_epochs < 0:
        raise UserError("--epoch and --base-epochs cannot be negative")


def base_network(args: argparse.Namespace, saved: Path, name: str, setting: Setting) -> Path:
    """The dense network: --pretrained, or the seed's file, or trained here."""
    given = Path(args.pretrained) if args.pretrained else saved / BASE
    if args.pretrained and not given.is_file():
        raise UserError(f"--pretrained {given}: no such file")
    data, folder = setting.data, saved / f"{name}_base"
    if given.is_file():
        if is_compressed(given) or given.suffix == ".safetensors":
            read_network(given, setting.factory)
            return given
        model = _loaded(args, given, data, setting)
        path = folder / "model.safetensors"
        if is_main():
            save_model(path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        barrier()
        return path
    options = {"arch": args.arch, "model": args.model, "dataset": data.name, "seed": args.seed, "stage": "base",
               "epochs": args.base_epochs, "learning_rate": args.base_learning_rate, "batch_size": args.batch_size}  # fmt: skip
    run = open_run(folder, PACKAGE, options, device=setting.device, fingerprint=data.fingerprint, force=args.force)
    if not run.finished:
        torch.manual_seed(args.seed)
        model = _fresh(args, data, setting)
        training = TrainOptions(args.base_epochs, args.batch_size, args.base_learning_rate, 0.9, 5e-4)
        train_baseline(
            run, model, data, training, setting.device, args.seed, args.workers, setting.factory, args.tensorboard
        )
    return run.model_path


def _fresh(args: argparse.Namespace, data: DataBundle, setting: Setting):
    if setting.factory:
        return setting.factory()
    return named_model(args.arch, None, data.num_classes, data.input_shape)


def _loaded(args: argparse.Namespace, path: Path, data: DataBundle, setting: Setting):
    if setting.factory is None:
        return named_model(args.arch, path, data.num_classes, data.input_shape)
    from common.checkpoint import load_weights

    return load_weights(setting.factory(), path)


def pruned_network(args: argparse.Namespace, saved: Path, name: str, base: Path, setting: Setting) -> Path:
    """The network after all rounds of pruning; `--apply_pruning False` takes the one that is there."""
    rounds = len(args.density) if args.density else args.iter - 1
    folder = saved / f"{name}_Pruned{rounds:02d}"
    there = folder / "model.safetensors"
    if not args.apply_pruning and (folder / "metrics.json").is_file():
        return there
    rates = args.lr1 if args.density else args.lr1[1:]  # the seed counts its rounds from 1
    plan = PrunePlan(
        "density" if args.density else "std",
        args.density or (args.quality,) * rounds,
        {},
        args.alive,
        tuple(rates[:rounds]),
    )
    training = TrainOptions(
        args.epoch, args.batch_size, rates[0], 0.9, 0.0,
        schedule="multi-step", milestones=args.lrsch_1, gamma=args.factor, amp=args.amp, compile=args.compile,
    )  # fmt: skip
    stages.prune(base, folder, plan, training, setting)
    if is_main():
        flat_file(saved / f"{folder.name}.t7", there, setting)
    return there


def shared_networks(args: argparse.Namespace, saved: Path, name: str, pruned: Path, setting: Setting) -> list[Path]:
    """For each number of clusters a shared and encoded network: the folders of the encoded ones."""
    if args.conv_bits is not None:
        wanted = [
            (
                f"{name}_Shared{args.conv_bits}-{args.fc_bits}bits",
                {"conv_bits": args.conv_bits, "fc_bits": args.fc_bits},
            )
        ]
    else:
        wanted = [(f"{name}_Shared{k:02d}", {"clusters": k}) for k in args.lcluster]
    folders = []
    for (label, sizes), rate in zip(wanted, args.lr2, strict=False):
        if args.cluster_method != "GMM":
            label += f"-{args.cluster_method}"
        plan = SharePlan(args.cluster_method, args.init, **sizes, bias_bits=args.bias_bits, rounding=args.rounding)
        training = TrainOptions(
            args.epoch, args.batch_size, rate, 0.9, 0.0,
            schedule="multi-step", milestones=args.lrsch_2, gamma=args.factor, amp=args.amp, compile=args.compile,
        )  # fmt: skip
        stages.share(pruned, saved / label / "share", plan, training, setting)
        shared = saved / label / "share" / "model.safetensors"
        if is_main():
            flat_file(saved / f"{label}.t7", shared, setting)
        stages.encode(shared, saved / label / "encode", encode_plan(args), setting)
        folders.append(saved / label / "encode")
    return folders


def flat_file(path: Path, checkpoint: Path, setting: Setting) -> None:
    """The seed's file: a dictionary of tensors. Left alone where it is newer than the checkpoint."""
    if path.is_file() and path.stat().st_mtime >= checkpoint.stat().st_mtime:
        return
    with atomic_file(path) as temporary:
        torch.save(dict(read_network(checkpoint, setting.factory).state_dict()), temporary)


def table(rows) -> str:
    """One line per network."""
    header = ("network", "top-1 %", "parameters not zero", "bytes", "rate")
    cells = [
        (
            name,
            f"{side['top1']:.2f}",
            f"{side['nonzero_params']:,}",
            f"{side['bytes']:,}",
            "" if rate is None else f"{rate:.1f}",
        )
        for name, side, rate in rows
    ]
    return markdown_table(header, cells)


def draw(folder: Path, pruned: Path, shared: Sequence[Path], dense: float) -> None:
    """The seed's figures: rounds of pruning, accuracy against clusters, epochs, histograms with clusters."""
    if (pruned / stages.HISTORY).is_file():
        plots.pruning_rounds(folder / "pruning.png", read_json(pruned / stages.HISTORY), dense)
    series: dict[str, list[tuple[int, float, float]]] = {}
    for encoded in shared:
        share = read_json(encoded.parent / "share" / "config.json")["options"]
        metrics = read_json(encoded / "metrics.json")
        if share["clusters"]:
            point = (share["clusters"], metrics["compressed"]["top1"], metrics["rate"])
            series.setdefault(share["method"], []).append(point)
        with open(encoded.parent / "share" / LOG, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows:
            plots.epochs(folder / f"epochs-{encoded.parent.name}.png", rows, encoded.parent.name)
        _histograms(
            folder / encoded.parent.name, pruned / "model.safetensors", encoded.parent / "share" / "model.safetensors"
        )
    if series:
        plots.against_clusters(folder / "clusters.png", series, dense)
    print(f"plots: {folder}")


def _histograms(folder: Path, pruned: Path, shared: Path) -> None:
    """Per layer the pruned weights, coloured by the cluster that each went to."""
    from deep_compression.pruning import prunable_weights

    before, after = prunable_weights(read_network(pruned)), prunable_weights(read_network(shared))
    for i, (name, weight) in enumerate(before.items()):
        living = (weight != 0) & (after[name] != 0)
        values, labels = after[name][living].unique(return_inverse=True)
        if len(values) <= plots.MANY:
            plots.cluster_histogram(folder / f"Weight_{i:02d}.png", weight[living].numpy(), labels.numpy(), name)
