"""The work of ``train.py``: fine-tune a compressed network, one process or several, with the original network's help if wanted."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.atomic import atomic_file
from common.checkpoint import load_model, save_model
from common.data import Batch, load_dataset
from common.device import choose_device, set_threads
from common.distributed import barrier, is_main, process_group
from common.errors import UserError
from common.factory import named_model
from common.measure import side
from common.runs import METRICS, STATE, Stage, open_stage
from common.settings import flat
from common.tensor_files import read_tensor_file
from common.trained import Trained, normalized_as
from common.training import Hooks, cross_entropy, fit
from model_preserving_id.command import say_result
from model_preserving_id.portable import arch_of, as_network, data_of
from model_preserving_id.settings import CHECKPOINT, PACKAGE, FineTune

NOT_PART_OF_A_RUN = (
    "force", "log_dir", "resume", "print_freq", "evaluate", "world_size", "rank", "dist_url", "dist_backend", "gpu",
    "multiprocessing_distributed", "tensorboard_dir",
)  # fmt: skip


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
        model = as_network(settings.pretrained)
        data = load_dataset(
            *data_of(model, settings.more.dataset, settings.more.dataset_dir), normalize=settings.more.normalize
        )
        data = data if settings.more.normalize else normalized_as(model, data)
        before = Trained(model, data, settings.arch, Path(settings.pretrained), None, device, settings.workers)
        original = _original(settings, before)
        options = {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}
        options |= {"dataset": data.name, "mean": data.mean, "std": data.std, "weights_digest": before.digest}
        run = open_stage(
            settings.log_dir, PACKAGE, options, device=device, fingerprint=data.fingerprint, force=settings.repeat.force
        )
        if not run.finished:
            _resume(run, settings.resume)
            _fit(run, settings, before, original, command)
        elif is_main():
            print(f"{run.folder} is finished: {run.folder / METRICS}")
        barrier()
        return run.metrics()


def _original(settings: FineTune, compressed: Trained) -> Trained | None:
    """The network before compression, if it was named: any checkpoint of ours, or weights of --arch."""
    if settings.more.original is None:
        return None
    data = compressed.data
    if str(settings.more.original).endswith((".pt", ".tp", ".safetensors")):
        model = as_network(settings.more.original)
    else:
        model = named_model(
            arch_of(settings.arch, data.name), settings.more.original, data.num_classes, data.input_shape
        )
    model.to(compressed.device)
    return Trained(
        model, data, settings.arch, Path(settings.more.original), None, compressed.device, compressed.workers
    )


def _fit(run: Stage, settings: FineTune, before: Trained, original: Trained | None, command: str) -> None:
    model, data, reference = before.model, before.data, original or before
    dense = reference.accuracy if is_main() else None
    after_cut = (reference.measure(model) if original else dense) if is_main() else None
    if is_main() and settings.evaluate:
        _say("before fine-tuning", after_cut)

    def after_epoch(epoch: int) -> dict[str, Any]:
        if not is_main():
            return {}
        now = reference.measure(model)
        _say(f"epoch {epoch + 1}/{settings.epochs}", now)
        figures = {"test_loss": now.loss, "test_top1": now.top1, "test_top5": now.top5, "agreement": now.agreement}
        return {name: round(value, 4) for name, value in figures.items() if value is not None}

    hooks = Hooks(
        loss=distillation(original, settings.more.distill, settings.more.temperature), after_epoch=after_epoch
    )
    try:
        rows = fit(
            model, data.train, settings.recipe(), folder=run.folder, device=before.device, seed=settings.repeat.seed,
            workers=settings.workers, hooks=hooks, tensorboard=settings.tensorboard_dir, stage="fine-tune",
        )  # fmt: skip
    finally:  # once, whether training ended or was interrupted: an epoch itself leaves STATE only
        if is_main():
            _write_checkpoint(run.folder, settings.arch)
    if is_main():
        save_model(run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        small = load_model(run.model_path)
        sides = {
            "baseline": side(reference.model, dense, data.input_shape, reference.bytes),
            "after_cut": side(small, after_cut, data.input_shape, before.bytes),
            "compressed": side(small, reference.measure(small), data.input_shape, run.model_path.stat().st_size),
        }
        say_result(settings.arch, sides, print)
        best = max((row["test_top1"] for row in rows), default=None)
        run.finish(
            {
                **sides,
                "epochs": len(rows),
                "best_test_top1": best,
                "command": command,
                "label": f"fine-tuned {settings.arch}",
            }
        )


def distillation(original: Trained | None, alpha: float, temperature: float):
    """Cross-entropy plus ``alpha`` times the cross-entropy to the original's softened outputs (Hinton et al. 2015).

    The loss is summed over a batch's examples; classes are softmaxed over, temperature squared keeps the gradients' size.
    """
    if original is None or not alpha:
        return None
    hard = cross_entropy()
    teacher = original.model.eval()

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = hard(network, batch)
        with torch.no_grad():
            target = F.softmax(teacher(batch.images).float() / temperature, dim=1)
        soft = F.cross_entropy(logits.float() / temperature, target, reduction="sum")
        return value + alpha * temperature**2 * soft, logits

    return loss


def _resume(run: Stage, file: str) -> None:
    """Let the loop go on from the seed's kind of checkpoint, unless the run folder itself has got further."""
    if not file or (run.folder / STATE).is_file() or not is_main():
        return
    if not Path(file).is_file():
        warnings.warn(f"--resume {file}: no such file yet; starting from --pretrained", stacklevel=2)
        return
    try:
        state = read_tensor_file(file)["state"]
        with atomic_file(run.folder / STATE) as temporary:
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


def _say(when: str, accuracy) -> None:
    corr = "" if accuracy.agreement is None else f", Corr {accuracy.agreement:.2f}"
    print(f"{when}: loss {accuracy.loss:.4f}, Acc@1 {accuracy.top1:.2f}, Acc@5 {accuracy.top5:.2f}{corr}", flush=True)
