"""Counting rules by name: (network, shape of one example) -> (MACs, names of operations that are not counted)."""

from collections.abc import Callable

from torch import nn

from common.cost.rules import conv_linear, decore_paper, decore_seed, model_preserving_id, rewarded_metapruning, thop
from common.cost.rules.factors import rule_from_factors

RULES: dict[str, Callable[[nn.Module, tuple[int, ...]], tuple[int, tuple[str, ...]]]] = {
    "conv_linear": conv_linear.count,
    "decore_paper": decore_paper.count,
    "decore_seed": rule_from_factors(decore_seed.factors),
    "thop": thop.count,
    "model_preserving_id": rule_from_factors(model_preserving_id.factors),
    "rewarded_metapruning": rule_from_factors(rewarded_metapruning.factors),
}
