"""The training loop of all packages, on CPU, CUDA and under torchrun. Interrupted at any time, it resumes bit-identical.

On CUDA this requires ``deterministic``: the summation order of some kernels varies.
"""

import importlib.util
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data import ImageSet, batch_count
from common.device import amp_dtype
from common.distributed import barrier, data_parallel, is_main, rank, sum_over_ranks, world_size
from common.errors import UserError
from common.interruption import Stopped, defer_signals, stop_requested
from common.layers import to_device
from common.measure import evaluate
from common.progress import track
from common.training.schedule import learning_rate
from common.training.state import SavedState
from common.training.step import GraphStep, Hooks, Stateful, Step, can_capture, cuda_settings, make_optimizer
from common.training.train_options import TrainOptions

MIN_PART = 2  # batch norm cannot train on one example: a shorter last batch is merged into the previous one
CHECK_EVERY, CHECK_EVERY_ON_CUDA = 50, 500  # steps between two checks of the loss; each check waits for the device
ONEDNN_BLOCK = 16  # input channels per block of oneDNN's 1x1 kernels


class DivergedError(UserError):
    """The loss is NaN or infinite. label: the epoch."""

    def __init__(self, label: str) -> None:
        super().__init__(f"{label}: the loss is not finite; use a smaller --learning-rate")
        self.label = label


def fit(
    model: nn.Module,
    train: ImageSet,
    options: TrainOptions,
    *,
    folder: Path | str | None = None,
    test: ImageSet | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    workers: int = 2,
    hooks: Hooks | None = None,
    tensorboard: Path | str | None = None,
    stage: str = "train",
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return the log, one row per epoch.

    Shuffling and augmentation depend only on (seed, epoch, example), so the result depends neither on the number of processes
    (except through batch norm) nor on interruptions.

    Args:
        folder: Folder of log.csv and of the state for resuming; None saves neither.
        test: Images evaluated after every ``options.evaluate_every``-th epoch and after the last one. The result is only logged.

    Raises:
        DivergedError: If the loss is not finite.
        UserError: If ``tensorboard`` is given and not installed.
        Stopped: At the deadline or after SIGTERM, between two epochs, after the state was saved (:mod:`common.interruption`).
    """
    check_tensorboard(tensorboard)
    hooks, device = hooks or Hooks(), torch.device(device)
    to_device(model, device, memory_format(model, device)).train()
    graph, cuda = can_capture(options, hooks, device), device.type == "cuda"
    rate = torch.tensor(options.learning_rate, device=device) if graph else None
    optimizer = make_optimizer(model, options, hooks.decays, fused=cuda, rate=rate)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp and amp_dtype(device) is torch.float16)
    states: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "scaler": scaler, **hooks.state}
    saved = SavedState(folder, stage, states, device, options.keep_every)
    torch.manual_seed(seed)
    rows = _restore(saved, optimizer)
    network = data_parallel(model, device, options.sync_batch_norm)
    step = (GraphStep if graph else Step)(network, optimizer, scaler, options, hooks, device)
    with ExitStack() as stack:
        stack.enter_context(cuda_settings(options, hooks, device))
        stack.enter_context(defer_signals())
        if 0 < len(rows) < options.epochs and _should_stop(float(rows[-1].get("seconds") or 0.0), device):
            raise Stopped(f"stopped after epoch {len(rows)} of {options.epochs}")
        for epoch in range(len(rows), options.epochs):
            start = time.monotonic()
            row = _run_epoch(step, train, test, epoch, seed, workers)
            row["seconds"] = round(time.monotonic() - start, 2)
            rows.append(row)
            last = epoch + 1 == options.epochs
            stop = not last and _should_stop(row["seconds"], device)
            if is_main():
                saved.save(rows, force=last or stop)
                _write_tensorboard(tensorboard, row, stage)
            barrier()
            if stop:
                raise Stopped(f"stopped after epoch {epoch + 1} of {options.epochs}")
    model.eval()
    return rows


def check_tensorboard(folder: Path | str | None) -> None:
    """Raise UserError if TensorBoard logs are requested and the library is not installed; call before any work."""
    if folder is not None and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            f"TensorBoard folder {folder}: the package tensorboard is not installed; pip install tensorboard"
        )


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels-last, or contiguous on a CPU if a strided 1x1 convolution has fewer than 16 input channels per group.

    In that case oneDNN's backward pass writes out of bounds: wrong gradients, a crash or an endless loop
    (https://github.com/uxlfoundation/oneDNN/issues/6035; a ResNet-50 pruned to very few channels has such shortcuts).
    """
    unsafe = device.type == "cpu" and any(
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
        and module.in_channels // module.groups < ONEDNN_BLOCK
        for module in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


def _restore(saved: SavedState, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the log rows of finished epochs; the optimizer keeps this run's fused, foreach and lr, not the saved ones."""
    own: list[dict[str, Any]] = [
        {name: group[name] for name in ("lr", "fused", "foreach") if name in group} for group in optimizer.param_groups
    ]
    rows = saved.restore()
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    return rows


def _run_epoch(
    step: Step, train: ImageSet, test: ImageSet | None, epoch: int, seed: int, workers: int
) -> dict[str, Any]:
    """Train one epoch, evaluate if it is due, and return the log row without the seconds."""
    options, hooks = step.options, step.hooks
    if hooks.before_epoch:
        hooks.before_epoch(epoch)
    row: dict[str, Any] = {
        "epoch": epoch + 1,
        "learning_rate": learning_rate(options, epoch),
        **_train_epoch(step, train, epoch, seed, workers),
    }
    if test is not None:
        due = (epoch + 1) % options.evaluate_every == 0 or epoch + 1 == options.epochs
        module = getattr(step.network, "module", step.network) if world_size() > 1 else step.network
        accuracy = evaluate(module, test, device=step.device, workers=workers) if due and is_main() else None
        if accuracy:
            row |= {"test_loss": round(accuracy.loss, 6), "test_top1": round(accuracy.top1, 4)}
        elif is_main():
            row |= {"test_loss": None, "test_top1": None}
    row |= hooks.after_epoch(epoch) if hooks.after_epoch else {}
    return row


def _should_stop(seconds: float, device: torch.device) -> bool:
    """Return whether to stop before another epoch of this duration; the result is the same in all processes."""
    requested = torch.tensor(float(stop_requested(seconds)), device=device if world_size() > 1 else "cpu")
    return bool(sum_over_ranks(requested) > 0)


def _train_epoch(step: Step, train: ImageSet, epoch: int, seed: int, workers: int) -> dict[str, float | None]:
    """Run all steps of an epoch; return loss and accuracy, averaged over the training batches during the epoch."""
    options = step.options
    steps = batch_count(len(train), options.batch_size, world_size(), MIN_PART)
    step.reset()
    step.network.train()
    batches = train.batches(
        options.batch_size,
        augment=options.augment,
        shuffle=True,
        seed=seed,
        epoch=epoch,
        device=step.device,
        rank=rank(),
        world_size=world_size(),
        workers=workers,
        channels_last=memory_format(step.network, step.device) is torch.channels_last,
        min_part=MIN_PART,
    )
    label = f"epoch {epoch + 1}/{options.epochs}"
    bar = track(batches, label, steps)
    every = CHECK_EVERY_ON_CUDA if step.device.type == "cuda" else CHECK_EVERY
    for i, batch in enumerate(bar):
        step(batch, learning_rate(options, epoch + i / steps))
        if i % every == 0:
            _check_finite(step.loss_sum, label)
            if step.hooks.status:
                bar.set_status(step.hooks.status())
    _check_finite(step.loss_sum, label)
    sums = torch.stack([step.loss_sum, step.correct.double()])
    loss, correct = (sum_over_ranks(sums) / len(train)).tolist()
    return {"train_loss": round(loss, 6), "train_top1": round(100 * correct, 4) if step.counts else None}


def _check_finite(loss: Tensor, label: str) -> None:
    if not math.isfinite(float(loss)):
        raise DivergedError(label)


def _write_tensorboard(folder: Path | str | None, row: Mapping[str, Any], stage: str) -> None:
    if folder is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in row.items():
            if name != "epoch" and isinstance(value, (int, float)):
                writer.add_scalar(f"{stage}/{name}", value, row["epoch"])
