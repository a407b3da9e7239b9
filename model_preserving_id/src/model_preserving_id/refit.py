"""A layer's weight solved by least squares, so that its output plus what is added to it is the original network's.

min_W || Y_0 + S_0 - S - P W^T ||^2 + lambda || W - W_T ||^2 per reading layer: P are the patches that the layer reads in
the network being cut (kept channels only), Y_0 its output in the original network, S and S_0 what is added to the output
(a residual shortcut) in the two networks, W_T the weight that ID with T gives. A norm between layer and sum is undone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_preserving_id.activations import eval_mode
from model_preserving_id.subject import Subject

RIDGE = 1e-4  # lambda, as a share of the mean energy of a column of P
SMALLEST_SCALE = 1e-3  # of a norm's largest: below it a channel's part of the sum cannot be made good
ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")


def can_refit(module: nn.Module) -> bool:
    """Linear layers, and two-dimensional convolutions of one group with zero padding."""
    if isinstance(module, nn.Linear):
        return True
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


@torch.no_grad()
def refit_weight(
    subject: Subject, consumer: str, inputs: Iterable[Tensor], *, device: torch.device | str = "cpu"
) -> None:
    """Solve the weight of one consumer in place; its bias and the input channels that are gone are left as they are."""
    module = subject.model.get_submodule(consumer)
    live = torch.tensor(live_inputs(subject, consumer), device=device)
    gram = products = None
    with seen(subject.original, consumer) as look_original, seen(subject.model, consumer) as look:
        for batch in inputs:
            batch = batch.to(device)
            before, now = look_original(batch), look(batch)
            target = before.output - (0.0 if module.bias is None else along_channels(module.bias, before.output))
            if before.added is not None and now.added is not None:
                target = target + (before.added - now.added) * along_channels(inverse(now.scale), target)
            patches = patches_read(module, now.input, live).double()
            rows = (
                target.movedim(1, -1).reshape(len(patches), -1).double()
                if target.dim() == 4
                else target.reshape(len(patches), -1).double()
            )
            gram = patches.T @ patches + (0 if gram is None else gram)
            products = patches.T @ rows + (0 if products is None else products)
    weight = module.weight
    start = weight.index_select(1, live).flatten(1).double()  # (o, live * kernel)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    solved = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), products + ridge * start.T
    )
    weight.index_copy_(1, live, solved.T.reshape(weight.shape[0], len(live), *weight.shape[2:]).to(weight.dtype))


def live_inputs(subject: Subject, consumer: str) -> list[int]:
    """The input positions of a consumer that no cut has taken away, ascending."""
    gone: set[int] = set()
    for one in subject.all_readings():
        if one.consumer == consumer and one.group in subject.kept:
            kept = set(subject.kept[one.group])
            gone.update(int(p) for c in range(one.size) if c not in kept for p in one.positions[c])
    width = subject.model.get_submodule(consumer).weight.shape[1]
    return [p for p in range(width) if p not in gone]


def patches_read(module: nn.Module, x: Tensor, live: Tensor) -> Tensor:
    """Rows (m, live * kernel) that a layer multiplies with its weight (o, live, *kernel) flattened from the second axis."""
    if isinstance(module, nn.Linear):
        return x.index_select(-1, live).reshape(-1, len(live))
    x = x.index_select(1, live)
    columns = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # (N, live * kernel, L)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,) shaped to multiply outputs (N, C, H, W) or (N, ..., C)."""
    return values.view(1, -1, 1, 1) if like.dim() == 4 else values


def inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where the scale is next to nothing."""
    usable = scale.abs() > SMALLEST_SCALE * scale.abs().max()
    return torch.where(usable, 1.0 / torch.where(usable, scale, 1.0), 0.0)


class Seen:
    """What one forward showed of a layer: its input and output, what was added to the output, through a norm of this scale."""

    def __init__(self, input: Tensor, output: Tensor) -> None:
        self.input, self.output = input, output
        self.added: Tensor | None = None
        self.scale = torch.ones(
            output.shape[1] if output.dim() == 4 else output.shape[-1], device=output.device, dtype=output.dtype
        )


@contextmanager
def seen(model: nn.Module, name: str) -> Iterator[Callable[[Tensor], Seen]]:
    """Yields a forward in eval mode that tells what it saw of the named layer; it ends as soon as nothing more is to be seen."""
    watcher = _Watcher(model, name)
    try:
        with eval_mode(model):
            yield watcher.forward
    finally:
        for handle in watcher.handles:
            handle.remove()


class _Enough(Exception):
    """The rest of the forward need not run."""


class _Watcher:
    """Follows the layer's output through a batch norm to the sum that it enters, if it enters one."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model = model
        self.enters_sum: bool | None = None  # known after the first forward
        self.carrier: Tensor | None = None
        self.handles = [model.get_submodule(name).register_forward_hook(self._layer)]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                self.handles.append(module.register_forward_hook(self._norm))

    def forward(self, batch: Tensor) -> Seen:
        self.carrier = None
        try:
            with _Sums(self):
                self.model(batch)
        except _Enough:
            pass
        self.enters_sum = self.found.added is not None
        return self.found

    def _layer(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.found, self.carrier = Seen(inputs[0].clone(), output.clone()), output
        if self.enters_sum is False:
            raise _Enough

    def _norm(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.carrier is not None and inputs[0] is self.carrier:
            deviation = torch.sqrt(module.running_var + module.eps)
            self.found.scale = deviation.reciprocal() if module.weight is None else module.weight / deviation
            self.carrier = output

    def added(self, other: Tensor) -> None:
        self.found.added = other.clone()
        raise _Enough


class _Sums(TorchFunctionMode):
    """Sees every addition of two tensors of equal shape, and tells the watcher of those that its carrier enters."""

    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ADDITIONS and len(args) >= 2 and self.watcher.carrier is not None:
            for one, other in ((args[0], args[1]), (args[1], args[0])):
                if one is self.watcher.carrier and isinstance(other, Tensor) and other.shape == one.shape:
                    self.watcher.added(other)
        return function(*args, **(kwargs or {}))
