"""Stage 1: train a PruningNet. Every step draws a fresh NEV and trains the network that is generated for it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import cli
from common.data import Batch, DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.log import Say
from common.runs import Run, open_run
from common.training import Hooks, TrainOptions, fit
from rewarded_metapruning.files import read_pruning_net, save_pruning_net, write_pruning_net
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.options import (
    HOLDOUT_SEED,
    PACKAGE,
    PRUNING_NET,
    add_network_options,
    add_recipe_options,
    load_pictures,
    network_of,
    recipe_from,
    scale_limits,
    space_of,
    with_dashes,
    without,
)
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.recipes import recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.space import Space


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser(network: str) -> cli.Parser:
    parser = cli.Parser(prog="train.py", description="Stage 1: train a PruningNet.", package=PACKAGE)
    add_network_options(parser, network)
    add_recipe_options(parser, recipe_of(network).meta)
    parser.add_argument("--save", default=PRUNING_NET, help="run folder of the PruningNet")
    parser.add_argument("--tensorboard", default=None, help="folder for TensorBoard")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    words = with_dashes(argv)
    args = build_parser(network_of(words)).parse_args(words)
    limits = scale_limits(args)
    args.scales = list(limits)  # what the run folder remembers
    recipe = recipe_from(args)
    if args.compile:
        raise UserError("--compile does not help a network whose widths change at every step; leave it out")
    set_threads(args.threads)
    device = choose_device(args.device)
    with process_group(device):
        data = load_pictures(args)
        held = data.holdout(args.holdout, HOLDOUT_SEED)
        space = space_of(args.arch, data)
        run = open_run(
            Path(args.save), PACKAGE, without(args, "save"), device=device, fingerprint=held.fingerprint, force=args.force
        )  # fmt: skip
        train_pruning_net(run, space, held, recipe, device, args.seed, args.workers, _say, args.tensorboard, limits)
        if is_main():
            top1 = run.metrics()["unpruned_top1"]
            _say(f"{run.model_path}: generates {space.arch}; at full width {top1:.2f} % on held-out pictures")


def train_pruning_net(
    run: Run,
    space: Space,
    held: DataBundle,
    recipe: TrainOptions,
    device: torch.device,
    seed: int = 0,
    workers: int = 2,
    say: Say = print,
    tensorboard: str | None = None,
    limits: tuple[int, int] = ALL_SCALES,
) -> dict[str, Any]:
    """Train on ``held.train``; a finished run is only read. The run's metrics: accuracy at full width on ``held.test``."""
    if not run.finished:
        torch.manual_seed(seed)
        net = PruningNet(space)
        vectors = RandomVectors(space, recipe.label_smoothing, seed, limits)
        watch = _FullWidth(net, held, device, workers, recipe, say)
        hooks = Hooks(
            before_epoch=vectors.before_epoch,
            loss=vectors.loss,
            after_epoch=watch.after_epoch,
            decays=is_weight,
            fixed_shapes=False,  # every step has other widths
        )
        rows = fit(
            net, held.train, recipe, folder=run.folder, device=device, seed=seed, workers=workers, hooks=hooks,
            tensorboard=tensorboard,
        )  # fmt: skip
        if is_main():
            save_pruning_net(run.model_path, net, held, limits)
            write_pruning_net(run.folder, read_pruning_net(run.model_path, space).net, limits)
            top1 = rows[-1]["unpruned_top1"] if rows else watch.measure()
            run.finish({"epochs": recipe.epochs, "unpruned_top1": top1, "length": space.length})
        barrier()
    return run.metrics()


class RandomVectors:
    """The loss of a step: that of the network of a NEV drawn from (seed, epoch, step), the same in every process."""

    def __init__(self, space: Space, label_smoothing: float, seed: int, limits: tuple[int, int] = ALL_SCALES) -> None:
        self.space, self.label_smoothing, self.seed, self.limits = space, label_smoothing, seed, limits
        self.epoch = self.step = 0

    def before_epoch(self, epoch: int) -> None:
        self.epoch, self.step = epoch, 0

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        nev = draw(self.space, (self.seed, self.epoch, self.step), self.limits)
        self.step += 1
        logits = network(batch.images, nev)
        smoothing = self.label_smoothing
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=smoothing), logits


class _FullWidth:
    """Accuracy of the generated network at full width, norms calibrated, on held-out pictures: a column of the log."""

    def __init__(self, net: PruningNet, held: DataBundle, device: torch.device, workers: int, recipe, say: Say) -> None:
        batches, size = recipe_of(net.space.arch).calibration
        self.net, self.epochs, self.say = net, recipe.epochs, say
        self.judge = Judge(net, held.train, held.test, device, batches, size, workers=workers)

    def measure(self) -> float:
        self.net.eval()
        return round(self.judge(self.net.space.unpruned).top1, 4)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        top1 = self.measure()
        self.say(f"epoch {epoch + 1} of {self.epochs}: at full width {top1:.2f} % on held-out pictures")
        return {"unpruned_top1": top1}


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """What weight decay applies to: weights of layers and generators, not biases, scales or shifts."""
    return parameter.dim() > 1


def _say(line: str) -> None:
    if is_main():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
