"""The work of ``train.py``: fine-tune a compressed network, one process or several, with the original network's help if wanted."""

import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.atomic import atomic_file
from common.data import Batch, load_dataset
from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.errors import UserError
from common.factory import named_model
from common.measure import Accuracy
from common.methods import Decision, Method
from common.pipeline import FineTuning, Outcome, compress
from common.pipeline import train as train_network
from common.runs import STATE, Stage, open_stage
from common.settings import flat
from common.target import Target
from common.tensor_files import read_tensor_file
from common.trained_model import TrainedModel, checked, with_normalization_of
from common.training import Hooks, best_test_top1, cross_entropy
from model_preserving_id.command import print_result, rounded
from model_preserving_id.portable import arch_of, as_network, data_of
from model_preserving_id.settings import CHECKPOINT, PACKAGE, FineTune

NOT_PART_OF_A_RUN = (
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


def finetune(settings: FineTune, command: str) -> None:
    """Fine-tune in this process or in several that it starts. command: the command line, for metrics.json."""
    processes = torch.cuda.device_count() if settings.multiprocessing_distributed else 1
    if settings.dist_backend == "nccl" and settings.multiprocessing_distributed and not torch.cuda.is_available():
        warnings.warn("no CUDA device: one process with gloo in place of nccl", stacklevel=2)
    if processes * max(1, settings.world_size) > 1 and "RANK" not in os.environ:
        torch.multiprocessing.spawn(_process, args=(processes, settings, command), nprocs=processes)
        return
    train(settings, command)


def _process(local: int, processes: int, settings: FineTune, command: str) -> None:
    """One of several processes, as torchrun would start it."""
    address, _, port = settings.dist_url.removeprefix("tcp://").partition(":")
    rank = max(0, settings.rank) * processes + local
    world = max(1, settings.world_size) * processes
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": port or "23456"}
    train(settings, command)


def train(settings: FineTune, command: str = "train.py") -> dict[str, Any]:
    """Fine-tune as the options say, in this process or as one of a group: the run's metrics."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device if settings.gpu is None else f"cuda:{settings.gpu}")
    with process_group(device):
        start = _open(settings, device)
        data = start.data
        options = {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}
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


def _open(settings: FineTune, device: torch.device) -> TrainedModel:
    """The compressed network, with the network before compression as its reference if that was named."""
    model = as_network(settings.pretrained)
    data = load_dataset(
        *data_of(model, settings.more.dataset, settings.more.dataset_dir), normalize=settings.more.normalize
    )
    data = data if settings.more.normalize else with_normalization_of(model, data)
    named = partial(TrainedModel, settings.arch, data=data, device=device, workers=settings.workers)
    reference, file = None, settings.more.original
    if file is not None:
        if str(file).endswith((".pt", ".tp", ".safetensors")):
            original = as_network(file)
        else:
            original = named_model(arch_of(settings.arch, data.name), file, data.num_classes, data.input_shape)
        reference = checked(named(model=original, file=Path(file)))
    return checked(named(model=model, file=Path(settings.pretrained), reference=reference))


def decide(settings: FineTune, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """The network fine-tuned, all of its channels kept, and the rows of its log. Leaves ``checkpoint.pth.tar``, too."""
    _resume(stage, settings.resume)
    model, more = start.copy(), settings.more
    if is_main() and settings.evaluate:
        _say("before fine-tuning", _accuracy(start))

    def after_epoch(epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        now = start.measure(model)
        _say(f"epoch {epoch + 1}/{settings.epochs}", now)
        return rounded(now, "test_")

    teacher = start.reference.copy() if start.reference and more.distill else None
    hooks = Hooks(loss=distillation(teacher, more.distill, more.temperature), after_epoch=after_epoch)
    training = FineTuning(settings.recipe(), log_test=False, tensorboard=settings.tensorboard_dir)
    try:
        rows = train_network(stage, start, model, training, hooks)
    finally:  # once, whether training ended or was interrupted: an epoch itself leaves STATE only
        if is_main():
            _write_checkpoint(stage.folder, settings.arch)
    return Decision(model=model, log=rows)


def _accuracy(start: TrainedModel) -> Accuracy:
    """Of the compressed network before fine-tuning; agreement is with the network before compression."""
    return start.measure(start.copy()) if start.reference else start.accuracy


def distillation(teacher: nn.Module | None, alpha: float, temperature: float):
    """Cross-entropy plus ``alpha`` times the cross-entropy to the teacher's softened outputs (Hinton et al. 2015).

    The loss is summed over a batch's examples; classes are softmaxed over, temperature squared keeps the gradients' size.
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
    """Let the loop go on from the seed's kind of checkpoint, unless the run folder itself has got further."""
    if not file or (stage.folder / STATE).is_file() or not is_main():
        return
    if not Path(file).is_file():
        warnings.warn(f"--resume {file}: no such file yet; starting from --pretrained", stacklevel=2)
        return
    try:
        state = read_tensor_file(file)["state"]
        with atomic_file(stage.folder / STATE) as temporary:
            torch.save(state, temporary)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"--resume {file} is not a {CHECKPOINT} of this script, or is damaged") from error


def _write_checkpoint(folder: Path, arch: str) -> None:
    """``checkpoint.pth.tar``: plain data, everything of the last epoch whose state is on disk."""
    if not (folder / STATE).is_file():
        return
    state = read_tensor_file(folder / STATE)
    content = {"epoch": len(state["rows"]), "arch": arch, "state_dict": state["states"]["model"]}
    content |= {"best_acc1": max((row["test_top1"] for row in state["rows"]), default=0.0), "state": state}
    with atomic_file(folder / CHECKPOINT) as temporary:
        torch.save(content, temporary)


def _say(when: str, accuracy: Accuracy) -> None:
    corr = "" if accuracy.agreement is None else f", Corr {accuracy.agreement:.2f}"
    print(f"{when}: loss {accuracy.loss:.4f}, Acc@1 {accuracy.top1:.2f}, Acc@5 {accuracy.top5:.2f}{corr}", flush=True)
