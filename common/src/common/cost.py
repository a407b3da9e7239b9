"""What a network costs: multiply-accumulates (MACs) and parameters, by our rule and by the papers' own.

The literature's "FLOPs" are MACs, counted in different ways; each paper's rule is here by name.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.channels.groups import ChannelGroup
from common.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
OTHER_ARITHMETIC = ("attention", "bmm", "addmv", "mv", "dot", "lstm", "gru", "rnn", "_fft", "cdist", "trilinear")
COUNTED = ("aten.convolution", "aten._convolution", "aten.mm", "aten.addmm")


@dataclass(frozen=True)
class Cost:
    """macs: of one example, by the rule; params and nonzero_params: trainable numbers; uncounted: what is not in macs."""

    macs: int
    params: int
    nonzero_params: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a leaf module on one example: elements of its input and output, and its own MACs (0 if it has none)."""

    name: str
    module: nn.Module
    inputs: int
    outputs: int
    macs: int


def count_cost(model: nn.Module, input_shape: Sequence[int], rule: str = "conv_linear") -> Cost:
    """Count one example of shape ``input_shape`` (C, H, W) in eval mode; the network's mode is put back.

    rule: ``conv_linear`` (half of torch's FlopCounterMode), or a paper's: see :data:`RULES`. Raises UserError for an
    unknown rule or an input that the network does not take.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    macs, uncounted = RULES[rule](model, tuple(input_shape))
    params = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    if uncounted:
        warnings.warn(f"MACs not counted: {', '.join(uncounted)}", stacklevel=2)
    return Cost(macs, params, nonzero, uncounted)


def layer_macs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """MACs of each convolution and linear layer for one example, by module name, in order of execution."""
    macs: dict[str, int] = {}
    for call in trace_calls(model, input_shape):
        if isinstance(call.module, (*CONVOLUTIONS, nn.Linear)):
            macs[call.name] = macs.get(call.name, 0) + call.macs
    return macs


def trace_calls(model: nn.Module, input_shape: Sequence[int]) -> list[Call]:
    """Every call of a leaf module in a forward of one example, eval mode (put back), no gradient."""
    calls: list[Call] = []

    def record(name: str):
        def hook(module: nn.Module, inputs, output) -> None:
            if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
                calls.append(
                    Call(name, module, inputs[0].numel(), output.numel(), _module_macs(module, inputs[0], output))
                )

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(record(name)) for name, module in leaves]
    try:
        _forward(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _forward(model: nn.Module, input_shape: Sequence[int]) -> None:
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), torch.empty(0))
    example = torch.zeros((1, *input_shape), device=parameter.device, dtype=parameter.dtype)
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"the network does not run on an example of shape {tuple(input_shape)}: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _module_macs(module: nn.Module, x: Tensor, out: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return out.numel() * module.in_features
    if not isinstance(module, CONVOLUTIONS):
        return 0
    elements = x if module.transposed else out
    return elements.numel() * module.weight[0].numel()


def _conv_linear(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """MACs of all convolutions and matrix products of weights (layers or functions); attention and the like are named."""
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton with it

    counter, watcher = FlopCounterMode(display=False), _OtherArithmetic()
    with counter, watcher:
        _forward(model, input_shape)
    flops = {str(op): count for op, count in counter.get_flop_counts().get("Global", {}).items()}
    macs = sum(count for op, count in flops.items() if op in COUNTED) // 2
    return macs, tuple(sorted(watcher.seen))


class _OtherArithmetic(TorchDispatchMode):
    """Collects the names of operations that multiply and accumulate but are neither convolution nor linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        if any(part in name for part in OTHER_ARITHMETIC):
            self.seen.add(f"aten.{name}")
        return func(*args, **(kwargs or {}))


def _decore_paper(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """Convolutions with one addition per output element, and linear layers but the last (VGG-16: 313,735,168)."""
    calls = trace_calls(model, input_shape)
    linear = [call.macs for call in calls if isinstance(call.module, nn.Linear)]
    convolutions = sum(call.macs + call.outputs for call in calls if isinstance(call.module, CONVOLUTIONS))
    return convolutions + sum(linear[:-1]), ()


def _decore_seed(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """MACs, one per biased convolution output and 2 per BatchNorm2d element (VGG-16: 314,293,248)."""

    def of_call(call: Call) -> int:
        bias = _bias(call) * isinstance(call.module, CONVOLUTIONS)
        return call.macs + bias + 2 * call.outputs * isinstance(call.module, nn.BatchNorm2d)

    return _sum(model, input_shape, of_call), ()


def _model_preserving_id(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """2 per MAC, 1 per biased output, 2 per BatchNorm2d element, 1 per ReLU-module element, k^2 per pooling-module output."""

    def of_call(call: Call) -> int:
        extra = 2 * call.outputs * isinstance(call.module, nn.BatchNorm2d) + call.outputs * isinstance(
            call.module, nn.ReLU
        )
        return 2 * call.macs + _bias(call) + extra + _pool(call)

    return _sum(model, input_shape, of_call), ()


def _rewarded_metapruning(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """MACs, linear biases, 1 per norm input element, 1 per ReLU-module input element, k^2 per pooling-module output."""

    def of_call(call: Call) -> int:
        elementwise = call.inputs * isinstance(call.module, (*BATCH_NORMS, nn.ReLU))
        return call.macs + _bias(call) * isinstance(call.module, nn.Linear) + elementwise + _pool(call)

    return _sum(model, input_shape, of_call), ()


def _thop(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    """What the library thop prints, run on a copy since it leaves buffers behind. Needs the extra ``thop``."""
    try:
        from thop import profile
    except ImportError as error:
        raise UserError("rule thop needs the package thop: pip install 'compression-papers-common[thop]'") from error
    parameter = next(model.parameters())
    example = torch.zeros((1, *input_shape), device=parameter.device, dtype=parameter.dtype)
    macs, _ = profile(copy.deepcopy(model).eval(), inputs=(example,), verbose=False)
    return int(macs), ()


def _sum(model: nn.Module, input_shape: tuple[int, ...], of_call: Callable[[Call], int]) -> int:
    return sum(of_call(call) for call in trace_calls(model, input_shape))


def _bias(call: Call) -> int:
    has_bias = isinstance(call.module, (*CONVOLUTIONS, nn.Linear)) and call.module.bias is not None
    return call.outputs if has_bias else 0


def _pool(call: Call) -> int:
    if not isinstance(call.module, POOLS):
        return 0
    size = call.module.kernel_size
    return call.outputs * (size * size if isinstance(size, int) else torch.Size(size).numel())


RULES: dict[str, Callable[[nn.Module, tuple[int, ...]], tuple[int, tuple[str, ...]]]] = {
    "conv_linear": _conv_linear,
    "decore_paper": _decore_paper,
    "decore_seed": _decore_seed,
    "thop": _thop,
    "model_preserving_id": _model_preserving_id,
    "rewarded_metapruning": _rewarded_metapruning,
}


class WidthCost:
    """MACs of a network for any widths of its channel groups, in closed form: no network is built or run.

    Exact for kept sets whose channels are read at equally many positions each, as in all registered networks.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], groups: Sequence[ChannelGroup]) -> None:
        modules = dict(model.named_modules())
        made_by = {producer: group for group in groups for producer in (*group.producers, *group.followers)}
        self.layers = [
            _LayerCost.of(name, modules[name], macs, made_by, groups)
            for name, macs in layer_macs(model, input_shape).items()
        ]
        self.sizes = {group.name: group.size for group in groups}
        self.dense = self.macs({})

    def macs(self, kept: Mapping[str, int]) -> int:
        """MACs when group ``name`` keeps ``kept[name]`` channels; groups that are not named keep all."""
        widths = {**self.sizes, **kept}
        return sum(layer.macs(widths) for layer in self.layers)


@dataclass(frozen=True)
class _LayerCost:
    per_pair: int  # MACs per (output channel, input channel), per channel for a depthwise layer; times `groups`
    groups: int
    out: tuple[int, str | None]  # outputs outside any group, and the group that makes the rest
    reads: tuple[int, tuple[tuple[str, int], ...]]  # inputs outside any group, and (group, positions per channel)
    depthwise: bool

    @staticmethod
    def of(
        name: str, module, macs: int, made_by: Mapping[str, ChannelGroup], groups: Sequence[ChannelGroup]
    ) -> "_LayerCost":
        out_width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        in_width = module.in_features if isinstance(module, nn.Linear) else module.in_channels
        conv_groups = getattr(module, "groups", 1)
        maker = made_by.get(name)
        out = (0, maker.name) if maker else (out_width, None)
        if conv_groups == in_width == out_width and conv_groups > 1:
            return _LayerCost(macs // out_width, 1, out, (1, ()), True)
        reads = tuple((g.name, len(p[0])) for g in groups for consumer, p in g.consumers if consumer == name)
        covered = sum(len(q) for g in groups for consumer, p in g.consumers if consumer == name for q in p)
        return _LayerCost(
            macs * conv_groups // (out_width * in_width), conv_groups, out, (in_width - covered, reads), False
        )

    def macs(self, widths: Mapping[str, int]) -> int:
        outputs = self.out[0] + (widths[self.out[1]] if self.out[1] else 0)
        if self.depthwise:
            return self.per_pair * outputs
        inputs = self.reads[0] + sum(widths[name] * positions for name, positions in self.reads[1])
        return self.per_pair * outputs * inputs // self.groups
