"""The implementation of ``train.py``: fine-tune a compressed network in one or more processes, optionally with distillation."""

import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch, load_dataset
from common.data.registry import image_choices
from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.errors import UserError
from common.factory import model_from_name
from common.measure import Accuracy
from common.methods import Decision, Method
from common.pipeline import FineTuning, Outcome, compress
from common.pipeline import train as train_network
from common.runs import STATE, Stage, open_stage, writable_folder
from common.settings import flatten
from common.target import Target
from common.tensor_files import read_tensor_file, write_tensor_file
from common.trained_model import TrainedModel, check_trained_model, with_preprocessing_of
from common.training import Hooks, best_test_top1, cross_entropy
from model_preserving_id.command import print_result, round_accuracy
from model_preserving_id.portable import as_network, resolve_arch, resolve_dataset
from model_preserving_id.settings import CHECKPOINT, PACKAGE, FineTuneCompressed

UNRECORDED_OPTIONS = (
    "force",
    "log_dir",
    "resume",
    "print_freq",
    "evaluate",
    "world_size",
    "rank",
    "dist_url",
    "dist_backend",
    "gpu",
    "multiprocessing_distributed",
    "tensorboard_dir",
)


def finetune(settings: FineTuneCompressed, command: str) -> None:
    """Fine-tune in this process, or start several. ``command`` is the command line recorded in metrics.json."""
    if settings.tensorboard_dir is not None:
        writable_folder(settings.tensorboard_dir)
    processes = torch.cuda.device_count() if settings.multiprocessing_distributed else 1
    if settings.dist_backend == "nccl" and settings.multiprocessing_distributed and not torch.cuda.is_available():
        warnings.warn("--dist-backend nccl: no CUDA device is available; one process with gloo is used", stacklevel=2)
    if processes * max(1, settings.world_size) > 1 and "RANK" not in os.environ:
        if settings.world_size > 1:
            print(f"waiting for {settings.world_size} machines at {settings.dist_url}", flush=True)
        torch.multiprocessing.spawn(_process, args=(processes, settings, command), nprocs=processes)
        return
    train(settings, command)


def _process(local: int, processes: int, settings: FineTuneCompressed, command: str) -> None:
    """Run one of several processes, as torchrun would start it."""
    address, _, port = settings.dist_url.removeprefix("tcp://").partition(":")
    rank = max(0, settings.rank) * processes + local
    world = max(1, settings.world_size) * processes
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": port or "23456"}
    train(settings, command)


def train(settings: FineTuneCompressed, command: str = "train.py") -> dict[str, Any]:
    """Fine-tune, alone or as one process of a group, and return the run's metrics."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device if settings.gpu is None else f"cuda:{settings.gpu}")
    with process_group(device):
        start = _open_model(settings, device)
        data = start.data
        options = {name: value for name, value in flatten(settings).items() if name not in UNRECORDED_OPTIONS}
        options |= {"dataset": data.name, "mean": data.mean, "std": data.std, "weights_digest": start.digest}
        stage = open_stage(
            settings.log_dir,
            PACKAGE,
            options,
            device=device,
            fingerprint=data.fingerprint,
            force=settings.repeat.force,
            seed=settings.repeat.seed,
        )

        def details(outcome: Outcome) -> Mapping[str, Any]:
            after_cut = start.metrics(outcome.network, _accuracy(start), start.bytes)
            print_result(settings.arch, outcome.metrics, print)
            rows = outcome.decision.log
            return {
                "after_cut": after_cut,
                "epochs": len(rows),
                "best_test_top1": best_test_top1(rows),
                "command": command,
                "label": f"fine-tuned {settings.arch}",
            }

        method = Method("fine-tuning", partial(decide, settings), trains=True)
        return compress(method, start, None, stage, latency=False, details=details)


def _open_model(settings: FineTuneCompressed, device: torch.device) -> TrainedModel:
    """Open the compressed network, with the unpruned network as its reference if that is given."""
    model = as_network(settings.pretrained)
    more = settings.more
    place = resolve_dataset(model, more.dataset, more.dataset_dir)
    data = with_preprocessing_of(model, load_dataset(*place, more.normalize, **image_choices(more.images)))
    named = partial(TrainedModel, settings.arch, data=data, device=device, workers=settings.workers)
    reference, file = None, settings.more.original
    if file is not None:
        if str(file).endswith((".pt", ".tp", ".safetensors")):
            original = as_network(file)
        else:
            original = model_from_name(resolve_arch(settings.arch, data.name), file, data.num_classes, data.input_shape)
        reference = check_trained_model(named(model=original, file=Path(file)))
    return check_trained_model(named(model=model, file=Path(settings.pretrained), reference=reference))


def decide(settings: FineTuneCompressed, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Fine-tune, keeping all channels, and return the network with the rows of its log. Also writes ``checkpoint.pth.tar``."""
    _resume(stage, settings.resume)
    model, more = start.copy(), settings.more
    if is_main() and settings.evaluate:
        _print_accuracy("before fine-tuning", _accuracy(start))

    def after_epoch(epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        now = start.measure(model)
        _print_accuracy(f"epoch {epoch + 1}/{settings.epochs}", now)
        return round_accuracy(now, "test_")

    teacher = start.reference.copy() if start.reference and more.distill_weight else None
    hooks = Hooks(loss=distillation_loss(teacher, more.distill_weight, more.temperature), after_epoch=after_epoch)
    training = FineTuning(settings.recipe(), log_test=False, tensorboard=settings.tensorboard_dir)
    try:
        rows = train_network(stage, start, model, training, hooks)
    finally:  # also if training was interrupted; an epoch itself writes STATE only
        if is_main():
            _write_checkpoint(stage.folder, settings.arch)
    return Decision(model=model, log=rows)


def _accuracy(start: TrainedModel) -> Accuracy:
    """Return the accuracy before fine-tuning; agreement is with the unpruned network."""
    return start.measure(start.copy()) if start.reference else start.accuracy


def distillation_loss(teacher: nn.Module | None, alpha: float, temperature: float):
    """Return a loss: cross-entropy plus ``alpha`` times the cross-entropy with the teacher's softened outputs.

    (Hinton et al. 2015.) The loss is summed over the examples of a batch; the factor temperature^2 keeps the scale of the
    gradients. None without a teacher or if ``alpha`` is 0.
    """
    if teacher is None or not alpha:
        return None
    hard = cross_entropy()
    teacher.eval()

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = hard(network, batch)
        with torch.no_grad():
            target = F.softmax(teacher(batch.images).float() / temperature, dim=1)
        soft = F.cross_entropy(logits.float() / temperature, target, reduction="sum")
        return value + alpha * temperature**2 * soft, logits

    return loss


def _resume(stage: Stage, file: str) -> None:
    """Resume from a checkpoint in the original format, unless the run folder contains a state of its own."""
    if not file or (stage.folder / STATE).is_file() or not is_main():
        return
    if not Path(file).is_file():
        warnings.warn(f"--resume {file}: no such file; training starts from --pretrained", stacklevel=2)
        return
    try:
        state = read_tensor_file(file)["state"]
        write_tensor_file(stage.folder / STATE, state)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"--resume {file}: not a {CHECKPOINT} of this script, or damaged; give another file, or none"
        ) from error


def _write_checkpoint(folder: Path, arch: str) -> None:
    """Write ``checkpoint.pth.tar``: plain data with the state of the last epoch that is on disk."""
    if not (folder / STATE).is_file():
        return
    state = read_tensor_file(folder / STATE)
    content = {"epoch": len(state["rows"]), "arch": arch, "state_dict": state["states"]["model"]}
    content |= {"best_acc1": max((row["test_top1"] for row in state["rows"]), default=0.0), "state": state}
    write_tensor_file(folder / CHECKPOINT, content)


def _print_accuracy(time: str, accuracy: Accuracy) -> None:
    corr = "" if accuracy.agreement is None else f", Corr {accuracy.agreement:.2f}"
    print(f"{time}: loss {accuracy.loss:.4f}, Acc@1 {accuracy.top1:.2f}, Acc@5 {accuracy.top5:.2f}{corr}", flush=True)
