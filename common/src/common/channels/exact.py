"""Compare a pruned network with the masked one, layer by layer, in float64 and relative to the size of each tensor."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.channels.attention import HeadAttention, show_heads
from common.channels.example import (
    Inputs,
    call,
    copy_sharing_tensors,
    input_tensors,
    map_tensors,
    one_line,
    output_tensors,
)
from common.channels.groups import ChannelGroup
from common.channels.mask import masked
from common.channels.resize import NORMALIZATIONS, WEIGHTED, channel_dim
from common.device import exact_float32
from common.errors import UserError
from common.models.shortcut import PadShortcut

TOLERANCE = 1e-9  # of the largest value of a tensor, in float64
TOLERANCE_OWN_TYPE = 1e-4  # of the largest value, for networks that do not run in float64
SCALES = (1.0, 0.02, 50.0)  # standard deviations of the inputs: normalized images, small and large ones
SAMPLE = 2**18  # at most this many values of a tensor are compared
PERTURBATION = 1e-12  # relative change of the inputs that shows which tensors consist of rounding errors only

Sides = Mapping[tuple[str, str], Collection[int]]  # removed positions by (module, side)


class _Differs(Exception):
    """A tensor of the pruned network differs from the masked one's; the message describes it."""


class _NoBatch(Exception):
    """The network does not treat the inputs of a batch separately."""


class FloatAsDouble(TorchFunctionMode):
    """Within this context, code that casts to a floating-point type casts to float64 instead.

    For networks that call ``x.float()`` (FrozenBatchNorm, softmax in float32) and would not run in float64.
    """

    _TYPES = (torch.float32, torch.float16, torch.bfloat16)
    _CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
    used = False  # whether a cast has been replaced

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self._CASTS:
            self.used, func = True, Tensor.double
        args = tuple(self._type(value) for value in args)
        return func(*args, **{key: self._type(value) for key, value in (kwargs or {}).items()})

    def _type(self, value: Any) -> Any:
        if isinstance(value, torch.dtype) and value in self._TYPES:
            self.used = True
            return torch.float64
        return value


class Reference:
    """A network that pruned ones are compared with: in float64, with batch norm at typical statistics.

    Batch norm has random weights and the statistics of a random input, and parameters that are all zero are random: a
    branch that ends in zeros (the last batch norm of a residual block, before training) would hide all differences in it.

    Attributes:
        model: The copy, in eval mode.
        dtype: float64, or None for the network's own type, if it does not run in float64.
        replaced: (module, tensor) names of the tensors that have other values than the network's.
        unreached: Names of the modules with parameters that do not run in eval mode.
    """

    def __init__(self, model: nn.Module, example_input: Inputs, scales: Sequence[float] = SCALES) -> None:
        first = _first_example(example_input)
        for self.dtype in (torch.float64, None):
            self.model = show_heads(copy_sharing_tensors(model, dtype=self.dtype).eval())
            for example in (first, example_input) if first is not example_input else (first,):
                self._inputs = [cast_for(self.model, one) for one in sample_inputs(example, scales)]
                self._batch = _concatenate(self._inputs) if len(self._inputs) > 1 else None
                try:
                    self._set_typical_values()
                    return
                except (
                    Exception
                ) as error:  # of any kind: code that mixes types, or an input that has no batch dimension
                    failure = error
        raise UserError(f"{type(model).__name__} does not accept random inputs like the example: {one_line(failure)}")

    def _set_typical_values(self) -> None:
        """Replace values, run the network on the first input, and note which modules run and whether it casts."""
        generator = torch.Generator().manual_seed(1)
        named = dict(self.model.named_modules())
        self.replaced: set[tuple[str, str]] = set()
        reached: set[str] = set()

        def replace(name: str, key: str, mean: float, std: float) -> None:
            like = named[name]._parameters[key]
            assert like is not None
            values = torch.randn(like.shape, generator=generator, dtype=torch.float64) * std + mean
            named[name]._parameters[key] = nn.Parameter(values.to(like), requires_grad=False)
            self.replaced.add((name, key))

        def reach(name: str) -> Callable[..., None]:
            return lambda *_: reached.add(name)

        with ExitStack() as stack:
            for name, module in named.items():
                batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                for key, value in module._parameters.items():
                    if value is None or not is_float(value) or not value.numel():
                        continue
                    if batch_norm:
                        replace(name, key, float(key == "weight"), 0.3)
                    elif not value.any():
                        replace(name, key, 0.0, (value[0].numel() if value.dim() > 1 else 10) ** -0.5)
                if batch_norm and module.running_mean is not None:
                    stack.callback(module.register_forward_pre_hook(_set_statistics()).remove)
                    self.replaced |= {(name, "running_mean"), (name, "running_var")}
                if any(value is not None for value in module._parameters.values()):
                    stack.callback(module.register_forward_pre_hook(reach(name)).remove)
            mode = stack.enter_context(deterministic(double=self.dtype is not None))
            call(self.model, self._inputs[0])
        self.casts = mode.used if mode else False
        self.unreached = [n for n, m in named.items() if any(True for _ in m.parameters(False)) and n not in reached]

    def difference(
        self,
        smaller: nn.Module,
        groups: Sequence[ChannelGroup],
        kept: Mapping[str, Sequence[int]],
        removed: Sides,
    ) -> str | None:
        """Describe the first tensor that differs between this network, masked, and the pruned one; None if there is none.

        Compared are the inputs and the outputs of all convolutions and linear layers and of every layer that was
        changed, and the outputs of the network.

        Args:
            smaller: The pruned network, in this network's type and in eval mode.
            kept: Channels kept, by group name.
            removed: Removed positions, by module and side.
        """
        parameter = next(self.model.parameters())
        masks = {}
        for group in groups:
            if group.name in kept:
                mask = torch.zeros(group.size, device=parameter.device, dtype=parameter.dtype)
                mask[list(kept[group.name])] = 1
                masks[group.name] = mask
        compared = self._compared(removed)

        with masked(self.model, groups, masks):
            if self._batch is not None:
                try:
                    return self._compare(smaller, compared, removed, self._batch, len(self._inputs))
                except _NoBatch:
                    self._batch = None
            return next(filter(None, (self._compare(smaller, compared, removed, one, 1) for one in self._inputs)), None)

    @cached_property
    def shapes(self) -> "Shapes | None":
        """The shapes of all tensors that are compared, without values; None if the network needs values to run."""
        model = copy_sharing_tensors(self.model).to("meta")
        kinds = (*WEIGHTED, *NORMALIZATIONS, PadShortcut, HeadAttention)
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        inputs = map_tensors(lambda tensor: tensor.to("meta"), self._inputs[0])
        found: list[tuple[str, str, nn.Module | None, Tensor]] = []

        def record(name: str, side: str, module: nn.Module | None, tensor: Tensor) -> None:
            found.append((name, side, module, tensor))

        try:
            self._run(model, inputs, names, record)
        except Exception:  # of any kind: some operations need values
            return None
        return Shapes(model, names, inputs, found)

    def misfit(self, smaller: nn.Module, removed: Sides) -> str | None:
        """Describe where a pruned copy of ``shapes.model`` would fail, or a shape differ; None if it fits."""
        assert self.shapes is not None
        expected, position = self.shapes.found, 0

        def compare(name: str, side: str, _: nn.Module | None, tensor: Tensor) -> None:
            nonlocal position
            if position == len(expected) or expected[position][:2] != (name, side):
                raise _Differs(f"the layers run in another order, {place(name, side)}")
            module, before = expected[position][2:]
            position += 1
            shape = list(before.shape)
            for dim, gone in _gone(removed, name, side, module, before):
                shape[dim] -= len(gone)
            if list(tensor.shape) != shape:
                raise _Differs(f"{place(name, side)} would differ in shape")

        try:
            self._run(smaller, self.shapes.inputs, self.shapes.names, compare)
        except _Differs as error:
            return str(error)
        except Exception as error:
            where = f" after {place(*expected[position - 1][:2])}" if position else ""
            return f"the pruned network would fail{where}: {one_line(error)}"
        return None if position == len(expected) else f"{place(*expected[position][:2])} would not be reached"

    def _compared(self, removed: Sides) -> list[str]:
        """Return the names of the modules whose inputs and outputs are compared."""
        names = [n for n, m in self.model.named_modules() if isinstance(m, (*WEIGHTED, PadShortcut))]
        resized = {name for name, side in removed if side in ("in", "out", "both")}
        return names + [name for name in resized if name not in set(names)]

    def _compare(
        self, smaller: nn.Module, names: Sequence[str], removed: Sides, inputs: Inputs, parts: int
    ) -> str | None:
        """Describe the first difference on a batch of different inputs, each of which is compared; masks are applied."""

        def record(inputs: Inputs) -> list[tuple[str, Tensor]]:
            tensors: list[tuple[str, Tensor]] = []

            def keep(name: str, side: str, module: nn.Module | None, tensor: Tensor) -> None:
                if module is None and tensor.dim() and len(tensor) % parts:
                    raise _NoBatch
                for dim, gone in _gone(removed, name, side, module, tensor):
                    tensor = _without(tensor, dim, gone)
                tensors.append((place(name, side), _sample(tensor, parts).clone()))

            self._run(self.model, inputs, names, keep)
            return tensors

        try:
            expected = record(inputs)
        except Exception as error:
            if parts > 1:
                raise _NoBatch from error
            return f"the channels cannot be masked: {one_line(error)}"
        if not any(bool(tensor.isfinite().any()) for name, tensor in expected if name == OUTPUTS):
            return "the outputs are not finite, so that pruning cannot be checked"
        position, perturbed = 0, None

        def compare(name: str, side: str, _: nn.Module | None, tensor: Tensor) -> None:
            nonlocal position, perturbed
            if position == len(expected) or expected[position][0] != place(name, side):
                raise _Differs(f"the layers run in another order, {place(name, side)}")
            wanted, position = expected[position][1], position + 1
            size = _relative(wanted, _sample(tensor, parts))
            if size <= (TOLERANCE if self.dtype else TOLERANCE_OWN_TYPE):
                return
            if size < torch.inf and self.dtype:
                perturbed = perturbed or record(map_tensors(_perturb, inputs))
                if size <= 10 * _relative(wanted, perturbed[position - 1][1]):
                    return
            amount = f"by {size:.1e} of its largest value" if size < torch.inf else "in shape"
            raise _Differs(f"{place(name, side)} would differ {amount}")

        try:
            self._run(smaller, inputs, names, compare)
        except _Differs as error:
            return str(error)
        except Exception as error:
            where = f" after {expected[position - 1][0]}" if position else ""
            return f"the pruned network would fail{where}: {one_line(error)}"
        return None if position == len(expected) else f"{expected[position][0]} would not be reached"

    def _run(self, model: nn.Module, inputs: Inputs, names: Sequence[str], see: Callable[..., None]) -> None:
        """Run a network and pass the inputs and outputs of these modules, and the network's outputs, to a function."""
        modules = dict(model.named_modules())

        def before(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                if args and isinstance(args[0], Tensor):
                    see(name, "in", module, args[0])

            return hook

        def after(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, _: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    see(name, "out", module, output)

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(modules[name].register_forward_pre_hook(before(name)).remove)
                stack.callback(modules[name].register_forward_hook(after(name)).remove)
            stack.enter_context(deterministic(self.casts))
            outputs = call(model, inputs)
        for tensor in output_tensors(outputs):
            see("", "out", None, tensor)


@dataclass(frozen=True)
class Shapes:
    """A network without values, and the shapes of its layers' inputs and outputs."""

    model: nn.Module
    names: list[str]  # of the layers
    inputs: Inputs
    found: list[tuple[str, str, nn.Module | None, Tensor]]  # name of a layer, side, layer, input or output


OUTPUTS = "the output of the network"


def place(name: str, side: str) -> str:
    """Name a compared tensor in messages."""
    return f"the {'input' if side == 'in' else 'output'} of {name}" if name else OUTPUTS


@contextmanager
def deterministic(double: bool) -> Iterator[FloatAsDouble | None]:
    """Run networks without gradients, without TensorFloat-32 and with a fixed random state; double: see FloatAsDouble."""
    with torch.no_grad(), exact_float32(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        with FloatAsDouble() if double else nullcontext() as mode:
            yield mode


def sample_inputs(example_input: Inputs, scales: Sequence[float]) -> list[Inputs]:
    """Return inputs like the example: the example itself unless it is constant, and normal ones of several scales.

    Tensors of integers (tokens) are shuffled.
    """
    generator = torch.Generator().manual_seed(0)

    def like(scale: float) -> Callable[[Tensor], Tensor]:
        def sample(tensor: Tensor) -> Tensor:
            if is_float(tensor):
                return (torch.randn(tensor.shape, generator=generator) * scale).to(tensor)
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)

        return sample

    sampled = [map_tensors(like(scale), example_input) for scale in scales]
    floats = [tensor for tensor in input_tensors(example_input) if is_float(tensor)]
    given = not floats or any(tensor.numel() and bool((tensor != tensor.flatten()[0]).any()) for tensor in floats)
    return [*sampled, example_input] if given else sampled


def _first_example(example_input: Inputs) -> Inputs:
    """Return the first example of a batch, if all tensors have the same length."""
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in input_tensors(example_input)}
    if len(lengths) != 1 or max(lengths) <= 1:
        return example_input
    return map_tensors(lambda tensor: tensor[:1], example_input)


def _concatenate(inputs: Sequence[Inputs]) -> Inputs | None:
    """Concatenate inputs of the same structure to one batch, or return None unless all tensors have one example."""
    if any(not tensor.dim() or len(tensor) != 1 for one in inputs for tensor in input_tensors(one)):
        return None
    columns = zip(*(input_tensors(one) for one in inputs), strict=True)
    batches = iter([torch.cat(column) for column in columns])
    return map_tensors(lambda _: next(batches), inputs[0])


def cast_for(model: nn.Module, inputs: Inputs) -> Inputs:
    """Move an input to the device of a network, and its floating-point tensors to the type of the parameters."""
    like = next((parameter for parameter in model.parameters() if is_float(parameter)), torch.zeros(()))
    return map_tensors(lambda tensor: tensor.to(like if is_float(tensor) else like.device), inputs)


def is_float(tensor: Tensor) -> bool:
    """Return whether a tensor has real floating-point values."""
    return tensor.is_floating_point()


def _gone(
    removed: Sides, name: str, side: str, module: nn.Module | None, tensor: Tensor
) -> list[tuple[int, Collection[int]]]:
    """Return (dimension, removed positions) of a module's input or output."""
    if module is None:
        return []
    positions = removed.get((name, side)) or removed.get((name, "both"), ())
    found = [(channel_dim(module, tensor), positions)] if positions else []
    across = ((d, removed.get((name, f"across {d}"))) for d in range(tensor.dim()))
    return found + [(d, gone) for d, gone in across if gone]


def _without(tensor: Tensor, dim: int, removed: Collection[int]) -> Tensor:
    """Return a tensor without positions along a dimension."""
    kept = [i for i in range(tensor.shape[dim]) if i not in removed]
    return tensor.index_select(dim, torch.tensor(kept, dtype=torch.int64, device=tensor.device))


def _sample(tensor: Tensor, parts: int) -> Tensor:
    """Return at most SAMPLE values of each part of a batch (parts, values), or of all if it has other dimensions.

    They are taken at an odd stride, which differs from the sizes of rows and channels.
    """
    parts = parts if tensor.dim() and len(tensor) and len(tensor) % parts == 0 else 1
    rows = tensor.detach().reshape(parts, -1)
    return rows[:, :: rows.shape[1] // SAMPLE | 1]


def _relative(expected: Tensor, actual: Tensor) -> float:
    """Return the largest difference divided by the largest expected value of its part; infinity if shapes differ."""
    if expected.shape != actual.shape:
        return float("inf")
    if not expected.numel() or torch.equal(expected, actual):
        return 0.0
    if not is_float(expected):
        return float("inf")
    if not expected.isfinite().all():
        finite = expected.isfinite()
        same = torch.equal(finite, actual.isfinite())
        return _relative(expected[finite][None], actual[finite][None]) if same else float("inf")
    size = ((expected - actual).abs().amax(1) / expected.abs().amax(1)).nan_to_num(0.0, float("inf"))
    return float(size.max()) if actual.isfinite().all() else float("inf")


def _perturb(tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if not is_float(tensor):
        return tensor
    return tensor * (1 + PERTURBATION * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor))


def _set_statistics() -> Callable[..., None]:
    """Build a hook that sets the statistics of a batch norm to those of its first input, or of all channels of it."""
    done = False

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal done
        if done or not args:
            return
        done = True
        x = args[0].transpose(0, 1).flatten(1)  # (C, N)
        if x.shape[1] < 4:
            x = x.reshape(1, -1).expand(len(x), -1)
        mean, var = x.mean(1), x.var(1, unbiased=False)
        for key, value in (("running_mean", mean), ("running_var", var + 1e-3 * var.mean() + 1e-30)):
            module._buffers[key] = value.contiguous()

    return hook
