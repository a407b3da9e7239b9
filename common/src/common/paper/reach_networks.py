"""Build a network of the table, prune it with common.channels and measure the result (:mod:`common.paper.reach`).

A network has random weights without constants: the layer scales, last batch norms and biases of an untrained network would
hide what happens in front of them. Its batch norms have the statistics of random images.
"""

import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.batchnorm import recalibrate_batch_norm
from common.channels import ChannelGroup, channel_groups, keep_channels, masked, top_channels
from common.channels.example import output_tensors
from common.cost import layer_macs
from common.errors import UserError
from common.paper.limited_process import Report, limit_cpu_time, run_limited
from common.paper.reach import TIMM
from common.runs import git_commit

MAX_MACS = 20e9  # of larger networks, smaller images are used
PRELOAD = ("common.channels.remove", "timm", "torch.utils.flop_counter", "torchvision.models")


def network_names() -> list[str]:
    """Return the names of all networks: torchvision's classifiers, then timm's."""
    import torchvision

    return [*torchvision.models.list_models(module=torchvision.models), *TIMM]


def build(name: str, size: int | None = None) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build a network with random weights and return it with the shape of its images, which may be smaller than usual."""
    if name in TIMM:
        import timm

        model: Any = timm.create_model(name, pretrained=False)
        shape = model.default_cfg["input_size"]
    else:
        import torchvision

        options: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": False}  # as with torchvision's weights
        crops = [w.transforms.keywords["crop_size"] for w in torchvision.models.get_model_weights(name)]
        shape = (3, min(crops), min(crops))
        if size and name.startswith("vit"):
            options = {"image_size": size}
        model = torchvision.models.get_model(name, weights=None, **options)
    return model.eval(), (shape[0], size or shape[1], size or shape[2])


@torch.no_grad()
def randomize(model: nn.Module, shape: Sequence[int]) -> None:
    """Make constant parameters random, and set batch norm to the statistics of random images, in place."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.flatten()[0] == 0:
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
                parameter.copy_(noise * fan_in**-0.5)
            else:
                parameter.copy_(1 + 0.3 * noise)
    without_cache(recalibrate_batch_norm(model, [images(shape, 2)]))


def images(shape: Sequence[int], count: int = 1) -> Tensor:
    """Return normal random images."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Count the MACs of one image, including attention. With gradients: torch's fast path of attention is not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            without_cache(model)(images(shape))
    finally:
        without_cache(model)
    return counter.get_total_flops() // 2


def without_cache(model: nn.Module) -> nn.Module:
    """Return the network in eval mode without tensors that it has cached there, which other types would not fit."""
    return model.train().eval()


def measure_common(model: nn.Module, shape: Sequence[int], report: Report, limit: Callable[[], Any]) -> None:
    """Remove half of every group with common.channels and report the result.

    limit: context in which the time is limited.
    """
    example, dense, layers = images(shape), count_macs(model, shape), layer_macs(model, shape)
    with limit():
        start = time.process_time()
        try:
            groups = channel_groups(model, example)
        except UserError as error:  # a reason for all channels of the network
            return report(
                groups=0,
                excluded=[{"reason": str(error), "example": str(error), "groups": [], "macs": dense}],
                macs_removed=0.0,
                difference=0.0,
                seconds=time.process_time() - start,
            )
        report(groups=len(groups), excluded=reasons(model, layers, groups.excluded))
        kept = {group.name: half(group) for group in groups}
        smaller = keep_channels(model, example, kept)
        report(seconds=time.process_time() - start)
    report(macs_removed=1 - count_macs(smaller, shape) / dense, difference=None)
    masks = {group.name: mask_of(group.size, kept[group.name]) for group in groups}
    with masked(model, groups, masks):
        expected = forward(model, example)
    report(difference=difference(expected, forward(smaller, example)))


def half(group: ChannelGroup) -> list[int]:
    """Choose at random the half of a group that is kept, the same number in each of its blocks."""
    scores = torch.rand(group.size, generator=torch.Generator().manual_seed(group.size))
    block = group.size // group.conv_groups
    return top_channels(scores.tolist(), (block - block // 2) * group.conv_groups, conv_groups=group.conv_groups)


def mask_of(size: int, kept: Iterable[int]) -> Tensor:
    """Return a mask that is 1 for the kept positions."""
    mask = torch.zeros(size, dtype=torch.float64)
    mask[list(kept)] = 1
    return mask


@torch.no_grad()
def forward(model: nn.Module, inputs: Tensor) -> Any:
    """Return the outputs of a network in float64, to which it is converted."""
    return without_cache(model).double()(inputs.double())


def difference(expected: Any, found: Any) -> float | None:
    """Return the largest difference of the outputs, relative to the largest value of each; None if it is not defined."""
    largest = 0.0
    for a, b in zip(output_tensors(expected), output_tensors(found), strict=True):
        if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return None
        if not torch.equal(a, b):
            largest = max(largest, float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)))
    return largest


def reasons(model: nn.Module, macs: Mapping[str, int], excluded: Mapping[str, str]) -> list[dict[str, Any]]:
    """Sort excluded groups by the kind of reason: the reason without names and numbers, the first in full, names and MACs.

    macs: MACs by layer.
    """
    names = {name for name, _ in (*model.named_modules(), *model.named_parameters()) if name}
    kinds: dict[str, dict[str, Any]] = {}
    for group, reason in excluded.items():
        words = ["..." if word.strip(",:;'") in names else word for word in reason.split(" ")]
        kind = re.sub(r"N(, N)+", "N", re.sub(r"\d[\d.]*(e[-+]?\d+)?", "N", " ".join(words)))[:120]
        entry = kinds.setdefault(kind, {"reason": kind, "example": reason, "groups": [], "macs": 0})
        entry["groups"].append(group)
        entry["macs"] += macs.get(group, 0)
    return sorted(kinds.values(), key=lambda entry: -entry["macs"])


# --- one process per network


def measure_in_process(
    name: str, seconds: float, memory_gib: float, torch_pruning: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Measure a network with common.channels and with torch-pruning alone, each in a process.

    torch_pruning: result of torch-pruning, if it has been measured.
    """
    row: dict[str, Any] = {
        "network": name,
        "library": "timm" if name in TIMM else "torchvision",
        "commit": git_commit(),
    }
    for kind in ("common",) if torch_pruning else ("common", "torch_pruning"):
        args = (name, kind, seconds)
        found = run_limited(_measure, args, seconds=seconds, memory_gib=memory_gib, preload=PRELOAD)
        row |= {key: found.pop(key) for key in ("input", "usual", "macs") if key in found}
        row[kind] = found
    return row | ({"torch_pruning": torch_pruning} if torch_pruning else {})


def _measure(name: str, kind: str, seconds: float, report: Report) -> None:
    """Build a network, with smaller images if it is large, prune it and report the result."""
    from common.paper.reach_torch_pruning import measure_torch_pruning

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    random.seed(0)
    model, shape = build(name)
    usual, macs = shape, count_macs(model, shape)
    while macs > MAX_MACS:
        model, shape = build(name, shape[1] // 2)
        macs = count_macs(model, shape)
    report(input=shape, macs=macs, **({"usual": usual[1]} if usual != shape else {}))
    randomize(model, shape)
    measure = measure_common if kind == "common" else measure_torch_pruning
    measure(model, shape, report, lambda: limit_cpu_time(seconds))
