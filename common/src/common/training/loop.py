"""One training loop for all packages: CPU, CUDA, torchrun; interrupted at any moment, it goes on to the same bits."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common.atomic import atomic_file, write_csv
from common.data import Batch, ImageSet, batch_count
from common.distributed import barrier, data_parallel, is_main, rank, sum_over_ranks, world_size
from common.errors import UserError
from common.measure import evaluate
from common.runs import LOG, STATE
from common.tensor_files import read_tensor_file
from common.training.options import TrainOptions
from common.training.schedule import learning_rate

MIN_PART = 2  # batch norm cannot train on one example: a shorter last batch joins the one before it


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True)
class Hooks:
    """Where a method joins the loop; each is optional.

    before_epoch    (epoch): draws that depend on (seed, epoch, example) need it
    loss            (network, batch) -> (loss summed over the batch's examples, logits); default: cross-entropy
    after_backward  before the optimiser's step: may change gradients
    after_step      after the optimiser's step: may change parameters (masks)
    after_epoch     (epoch) -> more columns of log.csv
    status          () -> a few words behind the progress bar, asked for every 50 steps
    decays          (name, parameter) -> whether weight decay applies to it; to all if not given
    state           what else must survive an interruption, by name
    """

    before_epoch: Callable[[int], None] | None = None
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]] | None = None
    after_backward: Callable[[], None] | None = None
    after_step: Callable[[], None] | None = None
    after_epoch: Callable[[int], dict[str, Any]] | None = None
    status: Callable[[], str] | None = None
    decays: Callable[[str, nn.Parameter], bool] | None = None
    state: Mapping[str, Stateful] = field(default_factory=dict)


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

    folder: where log.csv and the state for going on are kept, written after every epoch; None keeps nothing.
    test: evaluated after every epoch, for the log only: no choice is made on it.
    Pictures are shuffled and augmented by (seed, epoch, example), so the result depends neither on the number of
    processes (batch norm aside) nor on interruptions. Raises UserError if the loss is not finite.
    """
    hooks, device = hooks or Hooks(), torch.device(device)
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, options, hooks.decays)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp and _amp_dtype(device) is torch.float16)
    states = {"model": model, "optimizer": optimizer, "scaler": scaler, **hooks.state}
    state_file = Path(folder) / STATE if folder else None
    torch.manual_seed(seed)
    rows = _restore(state_file, stage, states, device)
    network = data_parallel(model, device, options.sync_batch_norm)
    if options.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    step = _Step(network, optimizer, scaler, options, hooks, device)
    for epoch in range(len(rows), options.epochs):
        start = time.monotonic()
        if hooks.before_epoch:
            hooks.before_epoch(epoch)
        row = {
            "epoch": epoch + 1,
            "learning_rate": learning_rate(options, epoch),
            **_epoch(step, train, epoch, seed, workers),
        }
        if test is not None:
            accuracy = evaluate(model, test, device=device, workers=workers) if is_main() else None
            row |= {"test_loss": round(accuracy.loss, 6), "test_top1": round(accuracy.top1, 4)} if accuracy else {}
        row |= hooks.after_epoch(epoch) if hooks.after_epoch else {}
        row["seconds"] = round(time.monotonic() - start, 2)
        rows.append(row)
        if is_main():
            _keep(state_file, stage, states, rows, device)
            _to_tensorboard(tensorboard, row, stage)
        barrier()
    model.eval()
    return rows


class _Step:
    """One optimiser step on one batch."""

    def __init__(self, network, optimizer, scaler, options: TrainOptions, hooks: Hooks, device: torch.device) -> None:
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.options, self.hooks, self.device = options, hooks, device
        self.loss = hooks.loss or cross_entropy(options.label_smoothing)
        self.amp_dtype = _amp_dtype(device)
        if options.amp and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            warnings.warn(
                "--amp: this CPU has no bfloat16 instructions; expect it to be about twelve times slower", stacklevel=2
            )

    def __call__(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """(sum of losses, number of correct decisions) of this process's part of the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)  # first: the forward pass takes over the memory
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.options.amp):
            loss, logits = self.loss(self.network, batch)
        # data_parallel averages over processes; each holds a part of the batch, maybe not an equal one
        self.scaler.scale(loss * (world_size() / batch.global_size)).backward()
        if self.hooks.after_backward:
            self.scaler.unscale_(self.optimizer)
            self.hooks.after_backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.hooks.after_step:
            self.hooks.after_step()
        return loss.detach(), (logits.detach().argmax(1) == batch.labels).sum()


def cross_entropy(label_smoothing: float = 0.0) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]:
    """The default loss: cross-entropy summed over the examples."""

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = network(batch.images)
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=label_smoothing), logits

    return loss


def make_optimizer(
    model: nn.Module, options: TrainOptions, decays: Callable[[str, nn.Parameter], bool] | None = None
) -> torch.optim.Optimizer:
    """SGD or Adam on all parameters that want gradients; ``decays`` says to which weight decay applies (all if None)."""
    wanted = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters: Any = [p for _, p in wanted]
    if decays is not None:
        free = [p for name, p in wanted if not decays(name, p)]
        parameters = [
            group
            for group in (
                {"params": [p for name, p in wanted if decays(name, p)]},
                {"params": free, "weight_decay": 0.0},
            )
            if group["params"]
        ]
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    nesterov = options.nesterov and options.momentum > 0
    rate, momentum, decay = options.learning_rate, options.momentum, options.weight_decay
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov)


def _epoch(step: _Step, train: ImageSet, epoch: int, seed: int, workers: int) -> dict[str, float]:
    options = step.options
    steps = batch_count(len(train), options.batch_size, world_size(), MIN_PART)
    sums = torch.zeros(2, dtype=torch.float64, device=step.device)
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
        channels_last=True,
        min_part=MIN_PART,
    )
    label = f"epoch {epoch + 1}/{options.epochs}"
    bar = tqdm(batches, total=steps, desc=label, disable=None if is_main() else True, leave=False)
    for i, batch in enumerate(bar):
        rate = learning_rate(options, epoch + i / steps)
        sums += torch.stack([value.double() for value in step(batch, rate)])
        if i % 50 == 0:
            _require_finite(sums, label)
            if step.hooks.status:
                bar.set_postfix_str(step.hooks.status(), refresh=False)
    _require_finite(sums, label)
    loss, correct = (sum_over_ranks(sums) / len(train)).tolist()
    return {"train_loss": round(loss, 6), "train_top1": round(100 * correct, 4)}


def _require_finite(sums: Tensor, label: str) -> None:
    if not math.isfinite(float(sums[0])):
        raise UserError(f"{label}: the loss is not finite; a smaller --learning-rate may help")


def _amp_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def _keep(state_file: Path | None, stage: str, states: Mapping[str, Stateful], rows, device: torch.device) -> None:
    """Everything that the next epoch depends on, in one atomic file; then the log."""
    if state_file is None:
        return
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    content = {"stage": stage, "rows": rows, "generators": generators}
    content["states"] = {name: state.state_dict() for name, state in states.items()}
    with atomic_file(state_file) as temporary:
        torch.save(content, temporary)
    write_csv(state_file.parent / LOG, rows)


def _restore(
    state_file: Path | None, stage: str, states: Mapping[str, Stateful], device: torch.device
) -> list[dict[str, Any]]:
    """Put everything back as :func:`_keep` left it; the rows of the epochs that are done."""
    if state_file is None or not state_file.is_file():
        return []
    try:
        content = read_tensor_file(state_file)
        if content["stage"] != stage:
            return []
        for name, state in states.items():
            state.load_state_dict(content["states"][name])
        torch.set_rng_state(content["generators"]["cpu"])
        if device.type == "cuda" and "cuda" in content["generators"]:
            torch.cuda.set_rng_state(content["generators"]["cuda"], device)
        return list(content["rows"])
    except (UserError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{state_file} is damaged; delete it to start this stage anew") from error


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
