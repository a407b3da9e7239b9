"""Stage 1: train a PruningNet. Every step draws a fresh NEV and trains the network that is generated for it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch, DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.runs import Stage, open_stage
from common.training import Hooks, TrainOptions, fit
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.files import read_pruning_net, save_pruning_net, write_pruning_net
from rewarded_metapruning.images import load_images, require_network, space_of
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.recipes import recipe_of
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import HOLDOUT_SEED, PACKAGE, Train, recorded, scale_limits
from rewarded_metapruning.space import SearchSpace


def train(settings: Train) -> None:
    """The command: the PruningNet's run folder, with the original's files in it."""
    arch, limits = settings.network.name, scale_limits(settings.scales)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    require_network(arch)
    with process_group(device):
        data = load_images(settings.data)
        held, space = data.holdout(settings.holdout, HOLDOUT_SEED), space_of(arch, data)
        options = recorded(settings, "save", scales=list(limits), compile=False)
        stage = open_stage(
            settings.save,
            PACKAGE,
            options,
            device=device,
            fingerprint=held.fingerprint,
            force=settings.repeat.force,
            seed=settings.repeat.seed,
            log=log,
        )
        train_pruning_net(stage, space, held, settings.recipe, limits, settings.data.workers, settings.tensorboard)
        top1 = stage.metrics()["unpruned_top1"]
        log(f"{stage.model_path}: generates {space.arch}; at full width {top1:.2f} % on held-out pictures")


def train_pruning_net(
    stage: Stage,
    space: SearchSpace,
    held: DataBundle,
    recipe: TrainOptions,
    limits: tuple[int, int] = ALL_SCALES,
    workers: int = 2,
    tensorboard: str | None = None,
) -> None:
    """Train on ``held.train`` in a stage's folder, unless that is done; its metrics have the accuracy at full width on ``held.test``.

    limits: least and largest entry of the vectors that are drawn.
    """
    if stage.finished:
        return
    torch.manual_seed(stage.seed)
    net = PruningNet(space)
    vectors = RandomVectors(space, recipe.label_smoothing, stage.seed, limits)
    watch = _FullWidth(net, held, stage, workers, recipe)
    hooks = Hooks(
        before_epoch=vectors.before_epoch,
        loss=vectors.loss,
        after_epoch=watch.after_epoch,
        decays=is_weight,
        fixed_shapes=False,  # every step has other widths
    )
    rows = fit(
        net,
        held.train,
        recipe,
        folder=stage.folder,
        device=stage.device,
        seed=stage.seed,
        workers=workers,
        hooks=hooks,
        tensorboard=tensorboard,
    )
    if is_main():
        save_pruning_net(stage.model_path, net, held, limits)
        write_pruning_net(stage.folder, read_pruning_net(stage.model_path, space).net, limits)
        top1 = rows[-1]["unpruned_top1"] if rows else watch.measure()
        stage.finish({"epochs": recipe.epochs, "unpruned_top1": top1, "length": space.length})
    barrier()


class RandomVectors:
    """The loss of a step: that of the network of a NEV drawn from (seed, epoch, step), the same in every process."""

    def __init__(
        self, space: SearchSpace, label_smoothing: float, seed: int, limits: tuple[int, int] = ALL_SCALES
    ) -> None:
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
    """Accuracy of the generated network at full width, batch norm calibrated, on held-out images: a column of the log."""

    def __init__(self, net: PruningNet, held: DataBundle, stage: Stage, workers: int, recipe: TrainOptions) -> None:
        batches, size = recipe_of(net.space.arch).calibration
        self.net, self.epochs, self.every, self.log = net, recipe.epochs, recipe.evaluate_every, stage.log
        device = torch.device(stage.device)
        self.evaluator = CandidateEvaluator(net, held.train, held.test, device, batches, size, workers=workers)

    def measure(self) -> float:
        self.net.eval()
        return round(self.evaluator(self.net.space.unpruned).top1, 4)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        if (epoch + 1) % self.every and epoch + 1 < self.epochs:
            return {"unpruned_top1": None}
        top1 = self.measure()
        self.log(f"epoch {epoch + 1} of {self.epochs}: at full width {top1:.2f} % on held-out pictures")
        return {"unpruned_top1": top1}


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """What weight decay applies to: weights of layers and generators, not biases, scales or shifts."""
    return parameter.dim() > 1


def log(line: str) -> None:
    """Print a line, in the main process."""
    if is_main():
        print(line, flush=True)
