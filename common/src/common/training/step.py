"""One optimizer step: mixed precision, gradient scaling, hooks and, on CUDA, capture as a graph."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch
from common.device import amp_dtype, warn_of_slow_amp
from common.distributed import world_size
from common.errors import UserError
from common.outputs import class_scores
from common.training.train_options import TrainOptions

WARM_UP = 3  # eager steps before a capture: they create the optimizer's state and select the kernels


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True)
class Hooks:
    """Optional functions with which a method extends the training loop.

    Attributes:
        before_epoch: (epoch) -> None, e.g. to seed random samples by (seed, epoch, example).
        loss: (network, batch) -> (loss summed over the batch's examples, logits); default: cross-entropy. Without
            logits (None), accuracy is not counted.
        after_backward: Called before the optimizer's step; may change gradients.
        after_step: Called after the optimizer's step; may change parameters (masks).
        after_epoch: (epoch) -> additional columns of log.csv.
        status: () -> text after the progress bar, updated every 50 steps (500 on CUDA).
        decays: (name, parameter) -> whether weight decay applies to the parameter; default: to all.
        state: Further objects that are saved for resuming, by name.
        fixed_shapes: Whether all steps have the same tensor shapes, so that cuDNN's search for fast kernels is worthwhile.
    """

    before_epoch: Callable[[int], None] | None = None
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]] | None = None
    after_backward: Callable[[], None] | None = None
    after_step: Callable[[], None] | None = None
    after_epoch: Callable[[int], dict[str, Any]] | None = None
    status: Callable[[], str] | None = None
    decays: Callable[[str, nn.Parameter], bool] | None = None
    state: Mapping[str, Stateful] = field(default_factory=dict)
    fixed_shapes: bool = True


class Step:
    """One optimizer step on one batch; accumulates ``loss_sum`` () float64 and ``correct`` () int64 on the device."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        options: TrainOptions,
        hooks: Hooks,
        device: torch.device,
    ) -> None:
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.options, self.hooks, self.device = options, hooks, device
        self.loss = hooks.loss or cross_entropy(options.label_smoothing)
        self.counts = True  # whether ``correct`` is meaningful
        self.amp_dtype = amp_dtype(device)
        # A second, dynamic compilation for a short last batch would take longer than many epochs.
        self.compiled = torch.compile(network, dynamic=False) if options.compile else None
        self.compiled_size: int | None = None
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        if options.amp:
            warn_of_slow_amp(device, "training is about twelve times")

    def reset(self) -> None:
        self.loss_sum.zero_()
        self.correct.zero_()

    def __call__(self, batch: Batch, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.compute(batch)

    def compute(self, batch: Batch, cache: bool = True) -> None:
        """Compute a step with the current learning rate."""
        self.optimizer.zero_grad(set_to_none=True)  # first: the forward pass reuses the memory
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.options.amp, cache_enabled=cache):
            loss, logits = self.loss(self._network_for(batch), batch)
        if not loss.requires_grad:
            raise UserError(
                "the loss has no gradient: no parameter requires one, or forward runs under torch.no_grad or "
                "torch.inference_mode; remove that"
            )
        # data_parallel averages over processes, whose parts of the batch may differ in size
        self.scaler.scale(loss * (world_size() / batch.global_size)).backward()
        if self.hooks.after_backward:
            self.scaler.unscale_(self.optimizer)
            self.hooks.after_backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.hooks.after_step:
            self.hooks.after_step()
        self.loss_sum += loss.detach()
        if logits is None:
            self.counts = False
        else:
            self.correct += (logits.detach().argmax(1) == batch.labels).sum()

    def _network_for(self, batch: Batch) -> nn.Module:
        if self.compiled is None:
            return self.network
        if self.compiled_size is None:
            self.compiled_size = len(batch.labels)
        return self.compiled if len(batch.labels) == self.compiled_size else self.network  # type: ignore[return-value]


class GraphStep(Step):
    """A step of fixed shape, captured once as a CUDA graph and replayed: one launch instead of hundreds of kernels.

    A batch of another size, such as a short last one, is computed eagerly.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.static_batch: Batch | None = None
        self.eager_steps = 0
        self.side_stream = torch.cuda.Stream(self.device)

    def compute(self, batch: Batch, cache: bool = True) -> None:
        if self.graph is None and self.eager_steps < WARM_UP:
            self.eager_steps += 1
            self.side_stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.side_stream):
                super().compute(batch, cache=False)
            torch.cuda.current_stream(self.device).wait_stream(self.side_stream)
            return
        if self.graph is None:
            self._capture(batch)
        if self.static_batch is None or batch.labels.shape != self.static_batch.labels.shape or self.graph is None:
            super().compute(batch, cache=False)
            return
        self.static_batch.images.copy_(batch.images)
        self.static_batch.labels.copy_(batch.labels)
        self.graph.replay()

    def _capture(self, batch: Batch) -> None:
        """Capture the step on copies of this batch; capturing does not compute anything."""
        self.static_batch = batch._replace(images=batch.images.clone(), labels=batch.labels.clone())
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            super().compute(self.static_batch, cache=False)


def can_capture(options: TrainOptions, hooks: Hooks, device: torch.device) -> bool:
    """Return whether the step can be a CUDA graph: one process, SGD without gradient scaling, no hook inside the step."""
    inside = (hooks.loss, hooks.after_backward, hooks.after_step)
    requested = options.graph == "auto" and device.type == "cuda" and options.optimizer == "sgd"
    scaled = options.amp and requested and amp_dtype(device) is torch.float16
    return (
        requested
        and not scaled
        and not options.compile
        and world_size() == 1
        and not any(inside)
        and hooks.fixed_shapes
    )


def cross_entropy(label_smoothing: float = 0.0) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]:
    """Return the default loss: cross-entropy summed over the examples."""

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = class_scores(network(batch.images))
        return F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=label_smoothing), logits

    return loss


def mean_loss(function: Callable[[Any, Any], Tensor]) -> Callable[[nn.Module, Batch], tuple[Tensor, None]]:
    """Return the loss of a network that is not a classifier. function: (outputs, targets) -> mean over the batch."""

    def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, None]:
        return function(network(batch.images), batch.labels) * len(batch.images), None

    return loss


def make_optimizer(
    model: nn.Module,
    options: TrainOptions,
    decays: Callable[[str, nn.Parameter], bool] | None = None,
    *,
    fused: bool = False,
    rate: float | Tensor | None = None,
) -> torch.optim.Optimizer:
    """Create SGD or Adam for all parameters that require gradients.

    Args:
        decays: Whether weight decay applies to a parameter; None: to all.
        fused: Use one kernel for all parameters (CUDA).
        rate: Learning rate, a tensor if the step becomes a CUDA graph; None: that of ``options``.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters: Any = [p for _, p in trainable]
    if decays is not None:
        undecayed = [p for name, p in trainable if not decays(name, p)]
        parameters = [
            group
            for group in (
                {"params": [p for name, p in trainable if decays(name, p)]},
                {"params": undecayed, "weight_decay": 0.0},
            )
            if group["params"]
        ]
    more: dict[str, Any] = {"fused": True} if fused else {}
    start: Any = options.learning_rate if rate is None else rate
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=start, weight_decay=options.weight_decay, **more)
    nesterov = options.nesterov and options.momentum > 0
    momentum, decay = options.momentum, options.weight_decay
    sgd = torch.optim.SGD(parameters, lr=start, momentum=momentum, weight_decay=decay, nesterov=nesterov, **more)
    if fused and momentum:
        # A fused first step that the gradient scaler skips would leave the momentum that it allocates uninitialized.
        for _, p in trainable:
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


@contextmanager
def cuda_settings(options: TrainOptions, hooks: Hooks, device: torch.device) -> Iterator[None]:
    """Set cuDNN's search for fast kernels (fixed shapes) or deterministic algorithms; restore the settings at the end."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = hooks.fixed_shapes and not options.deterministic
    torch.use_deterministic_algorithms(options.deterministic or before[1], warn_only=True)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=warn_only)
