"""One training loop for all packages: CPU, CUDA, torchrun; interrupted at any moment, it resumes bit-identical.

On CUDA that holds with ``deterministic`` only: some of its kernels add in an order that varies.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.data import ImageSet, batch_count
from common.distributed import barrier, data_parallel, is_main, rank, sum_over_ranks, world_size
from common.errors import UserError
from common.interruption import Stopped, graceful, stop_requested
from common.layers import placed
from common.measure import evaluate
from common.training.options import TrainOptions
from common.training.schedule import learning_rate
from common.training.state import SavedState
from common.training.step import GraphStep, Hooks, Stateful, Step, amp_dtype, can_capture, cuda_settings, make_optimizer

MIN_PART = 2  # batch norm cannot train on one example: a shorter last batch joins the one before it
CHECK_EVERY, CHECK_EVERY_ON_CUDA = 50, 500  # steps between two looks at the loss, each of which waits for the device
ONEDNN_BLOCK = 16  # input channels that oneDNN's 1x1 kernels take at once


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

    Images are shuffled and augmented by (seed, epoch, example), so the result depends neither on the number of processes
    (batch norm aside) nor on interruptions.

    Args:
        folder: Where log.csv and the state for resuming are kept; None keeps nothing.
        test: Evaluated after every ``options.evaluate_every``-th epoch and the last, for the log: no choice is made on it.

    Raises:
        UserError: If the loss is not finite.
        Stopped: At the deadline or after SIGTERM, between two epochs, with the state kept (:mod:`common.interruption`).
    """
    hooks, device = hooks or Hooks(), torch.device(device)
    placed(model, device, memory_format(model, device)).train()
    graph, cuda = can_capture(options, hooks, device), device.type == "cuda"
    rate = torch.tensor(options.learning_rate, device=device) if graph else None
    optimizer = make_optimizer(model, options, hooks.decays, fused=cuda, rate=rate)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp and amp_dtype(device) is torch.float16)
    states: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "scaler": scaler, **hooks.state}
    saved = SavedState(folder, stage, states, device, options.keep_every)
    torch.manual_seed(seed)
    rows = _restored(saved, optimizer)
    network = data_parallel(model, device, options.sync_batch_norm)
    step = (GraphStep if graph else Step)(network, optimizer, scaler, options, hooks, device)
    with ExitStack() as stack:
        stack.enter_context(cuda_settings(options, hooks, device))
        stack.enter_context(graceful())
        if 0 < len(rows) < options.epochs and _all_stop(float(rows[-1].get("seconds") or 0.0), device):
            raise Stopped(f"stopped after epoch {len(rows)} of {options.epochs}")
        for epoch in range(len(rows), options.epochs):
            start = time.monotonic()
            row = _one_epoch(step, train, test, epoch, seed, workers)
            row["seconds"] = round(time.monotonic() - start, 2)
            rows.append(row)
            last = epoch + 1 == options.epochs
            stop = not last and _all_stop(row["seconds"], device)
            if is_main():
                saved.keep(rows, now=last or stop)
                _to_tensorboard(tensorboard, row, stage)
            barrier()
            if stop:
                raise Stopped(f"stopped after epoch {epoch + 1} of {options.epochs}")
    model.eval()
    return rows


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, but on a CPU contiguous for a network with a 1x1 convolution that skips pixels of fewer than 16 channels.

    There oneDNN's backward pass writes beyond its memory: wrong gradients, a crash or no end
    (https://github.com/uxlfoundation/oneDNN/issues/6035; a ResNet-50 pruned to next to nothing has such shortcuts).
    """
    unsafe = device.type == "cpu" and any(
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
        and module.in_channels // module.groups < ONEDNN_BLOCK
        for module in model.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


def _restored(saved: SavedState, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The rows of the epochs that are done. How the optimizer computes is this run's choice, not that of the saved state."""
    own: list[dict[str, Any]] = [
        {name: group[name] for name in ("lr", "fused", "foreach") if name in group} for group in optimizer.param_groups
    ]
    rows = saved.restore()
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    return rows


def _one_epoch(
    step: Step, train: ImageSet, test: ImageSet | None, epoch: int, seed: int, workers: int
) -> dict[str, Any]:
    """Train one epoch and evaluate if it is time; its row of the log, without the seconds."""
    options, hooks = step.options, step.hooks
    if hooks.before_epoch:
        hooks.before_epoch(epoch)
    row: dict[str, Any] = {
        "epoch": epoch + 1,
        "learning_rate": learning_rate(options, epoch),
        **_train(step, train, epoch, seed, workers),
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


def _all_stop(seconds: float, device: torch.device) -> bool:
    """Whether work has to stop before another epoch of these seconds; all processes agree."""
    mine = torch.tensor(float(stop_requested(seconds)), device=device if world_size() > 1 else "cpu")
    return bool(sum_over_ranks(mine) > 0)


def _train(step: Step, train: ImageSet, epoch: int, seed: int, workers: int) -> dict[str, float]:
    """All steps of an epoch: mean loss and accuracy on the training images, as they were when each was seen."""
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
    bar = tqdm(batches, total=steps, desc=label, disable=None if is_main() else True, leave=False)
    every = CHECK_EVERY_ON_CUDA if step.device.type == "cuda" else CHECK_EVERY
    for i, batch in enumerate(bar):
        step(batch, learning_rate(options, epoch + i / steps))
        if i % every == 0:
            _require_finite(step.loss_sum, label)
            if step.hooks.status:
                bar.set_postfix_str(step.hooks.status(), refresh=False)
    _require_finite(step.loss_sum, label)
    sums = torch.stack([step.loss_sum, step.correct.double()])
    loss, correct = (sum_over_ranks(sums) / len(train)).tolist()
    return {"train_loss": round(loss, 6), "train_top1": round(100 * correct, 4)}


def _require_finite(loss: Tensor, label: str) -> None:
    if not math.isfinite(float(loss)):
        raise UserError(f"{label}: the loss is not finite; a smaller --learning-rate may help")


def _to_tensorboard(folder: Path | str | None, row: Mapping[str, Any], stage: str) -> None:
    if folder is None:
        return
    with _summary_writer(folder) as writer:
        for name, value in row.items():
            if name != "epoch" and isinstance(value, (int, float)):
                writer.add_scalar(f"{stage}/{name}", value, row["epoch"])


@contextmanager
def _summary_writer(folder: Path | str) -> Iterator[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
    with SummaryWriter(str(folder)) as writer:
        yield writer
