"""The rules by name: (network, shape of an example) -> (MACs, names of arithmetic that is not counted)."""

from collections.abc import Callable

from torch import nn

from common.cost.rules import conv_linear, decore_paper, decore_seed, model_preserving_id, rewarded_metapruning, thop
from common.cost.rules.factors import count_by

RULES: dict[str, Callable[[nn.Module, tuple[int, ...]], tuple[int, tuple[str, ...]]]] = {
    "conv_linear": conv_linear.count,
    "decore_paper": decore_paper.count,
    "decore_seed": count_by(decore_seed.factors),
    "thop": thop.count,
    "model_preserving_id": count_by(model_preserving_id.factors),
    "rewarded_metapruning": count_by(rewarded_metapruning.factors),
}
