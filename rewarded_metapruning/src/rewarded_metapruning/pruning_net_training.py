"""Stage 1: train a PruningNet. Every step samples a new NEV and trains on the network generated for it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch, DataBundle
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.outputs import class_scores
from common.runs import Stage, open_stage
from common.training import Hooks, TrainOptions, fit
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.pruning_net_files import read_pruning_net, save_original_pruning_net, save_pruning_net
from rewarded_metapruning.recipes import find_recipe
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import HOLDOUT_SEED, PACKAGE, TrainPruningNet, recorded_options, resolve_scale_range
from rewarded_metapruning.space import SearchSpace
from rewarded_metapruning.stage_inputs import build_space, check_network, load_images


def train_command(settings: TrainPruningNet) -> None:
    """Train a PruningNet in its run folder, and save it under the original code's file names too."""
    arch, scale_range = settings.network.name, resolve_scale_range(settings.scale_range)
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    check_network(arch)
    with process_group(device):
        data = load_images(settings.data, settings.network.name)
        held, space = data.holdout(settings.holdout, HOLDOUT_SEED), build_space(arch, data)
        options = recorded_options(settings, "save", scale_range=list(scale_range), compile=False)
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
        train_pruning_net(stage, space, held, settings.recipe, scale_range, settings.data.workers, settings.tensorboard)
        top1 = stage.metrics()["unpruned_top1"]
        log(f"{stage.model_path}: PruningNet of {space.arch}; top-1 at full width {top1:.2f} % on held-out images")


def train_pruning_net(
    stage: Stage,
    space: SearchSpace,
    held: DataBundle,
    recipe: TrainOptions,
    scale_range: tuple[int, int] = ALL_SCALES,
    workers: int = 2,
    tensorboard: str | None = None,
) -> None:
    """Train a PruningNet on ``held.train`` in a stage's folder, unless the stage is finished.

    Its metrics contain the accuracy at full width on ``held.test``.

    Args:
        scale_range: Smallest and largest entry of the sampled vectors.
    """
    if stage.finished:
        return
    torch.manual_seed(stage.seed)
    net = PruningNet(space)
    vectors = RandomVectorLoss(space, recipe.label_smoothing, stage.seed, scale_range)
    full_width = _FullWidthAccuracy(net, held, stage, workers, recipe)
    hooks = Hooks(
        before_epoch=vectors.before_epoch,
        loss=vectors.loss,
        after_epoch=full_width.after_epoch,
        decays=is_weight,
        fixed_shapes=False,  # widths change at every step
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
        save_pruning_net(stage.model_path, net, held, scale_range)
        save_original_pruning_net(stage.folder, read_pruning_net(stage.model_path, space).net, scale_range)
        top1 = rows[-1]["unpruned_top1"] if rows else full_width.measure()
        stage.finish({"epochs": recipe.epochs, "unpruned_top1": top1, "length": space.length})
    barrier()


class RandomVectorLoss:
    """Loss of the network of a NEV that is sampled from (seed, epoch, step), the same in every process."""

    def __init__(
        self, space: SearchSpace, label_smoothing: float, seed: int, scale_range: tuple[int, int] = ALL_SCALES
    ) -> None:
        self.space, self.label_smoothing, self.seed, self.scale_range = space, label_smoothing, seed, scale_range
        self.epoch = self.step = 0

    def before_epoch(self, epoch: int) -> None:
        self.epoch, self.step = epoch, 0

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        nev = sample_nev(self.space, (self.seed, self.epoch, self.step), self.scale_range)
        self.step += 1
        logits = class_scores(network(batch.images, nev))
        smoothing = self.label_smoothing
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=smoothing), logits


class _FullWidthAccuracy:
    """Accuracy of the generated network at full width on held-out images, with calibrated batch norm; a column of the log."""

    def __init__(self, net: PruningNet, held: DataBundle, stage: Stage, workers: int, recipe: TrainOptions) -> None:
        batches, size = find_recipe(net.space.arch).calibration
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
        self.log(f"epoch {epoch + 1} of {self.epochs}: top-1 at full width {top1:.2f} % on held-out images")
        return {"unpruned_top1": top1}


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to weights of layers and generators, not to biases or batch-norm parameters."""
    return parameter.dim() > 1


def log(line: str) -> None:
    """Print a line in the main process only."""
    if is_main():
        print(line, flush=True)
