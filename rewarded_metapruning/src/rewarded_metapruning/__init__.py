"""Rewarded meta-pruning: meta learning using rewards for channel pruning (arXiv 2301.11063; Mathematics 2023, 11(23), 4849)."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from rewarded_metapruning.closed_form import create_pruned, network_cost
    from rewarded_metapruning.tradeoff import reward

__all__ = ["create_pruned", "network_cost", "reward"]

__getattr__ = lazy_names(
    __name__, {"create_pruned": "closed_form", "network_cost": "closed_form", "reward": "tradeoff"}
)
