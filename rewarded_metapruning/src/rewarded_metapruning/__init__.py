"""Rewarded meta-pruning: meta learning using rewards for channel pruning (arXiv 2301.11063; Mathematics 2023, 11(23), 4849)."""

from typing import TYPE_CHECKING, Any

from rewarded_metapruning.reward import reward

if TYPE_CHECKING:
    from rewarded_metapruning.cost import create_pruned, network_cost

__all__ = ["create_pruned", "network_cost", "reward"]


def __getattr__(name: str) -> Any:
    """``create_pruned`` and ``network_cost`` when they are asked for: ``python -m rewarded_metapruning.cost`` finds its module unused."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rewarded_metapruning import cost

    return getattr(cost, name)
