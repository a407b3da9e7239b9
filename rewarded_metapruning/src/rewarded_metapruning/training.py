"""Stage 1: train a PruningNet. Every step draws a fresh NEV and trains the network that is generated for it."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch, DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.log import Say
from common.runs import Stage, open_stage
from common.training import Hooks, TrainOptions, fit
from rewarded_metapruning.files import read_pruning_net, save_pruning_net, write_pruning_net
from rewarded_metapruning.images import load_images, require_network, space_of
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.recipes import recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import HOLDOUT_SEED, PACKAGE, Train, recorded, scale_limits
from rewarded_metapruning.space import Space


def train(settings: Train) -> None:
    """The command: the PruningNet's run folder, with the original's files in it."""
    arch, limits = settings.network.name, scale_limits(settings.scales)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    require_network(arch)
    with process_group(device):
        data = load_images(settings.data)
        held = data.holdout(settings.holdout, HOLDOUT_SEED)
        space = space_of(arch, data)
        options = recorded(settings, "save", scales=list(limits), compile=False)
        force, seed = settings.repeat.force, settings.repeat.seed
        run = open_stage(
            Path(settings.save), PACKAGE, options, device=device, fingerprint=held.fingerprint, force=force
        )  # fmt: skip
        train_pruning_net(
            run, space, held, settings.recipe, device, seed, settings.data.workers, _say, settings.tensorboard, limits
        )
        if is_main():
            top1 = run.metrics()["unpruned_top1"]
            _say(f"{run.model_path}: generates {space.arch}; at full width {top1:.2f} % on held-out pictures")


def train_pruning_net(
    run: Stage,
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
        self.net, self.epochs, self.every, self.say = net, recipe.epochs, recipe.evaluate_every, say
        self.judge = Judge(net, held.train, held.test, device, batches, size, workers=workers)

    def measure(self) -> float:
        self.net.eval()
        return round(self.judge(self.net.space.unpruned).top1, 4)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        if (epoch + 1) % self.every and epoch + 1 < self.epochs:
            return {"unpruned_top1": None}
        top1 = self.measure()
        self.say(f"epoch {epoch + 1} of {self.epochs}: at full width {top1:.2f} % on held-out pictures")
        return {"unpruned_top1": top1}


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """What weight decay applies to: weights of layers and generators, not biases, scales or shifts."""
    return parameter.dim() > 1


def _say(line: str) -> None:
    if is_main():
        print(line, flush=True)
