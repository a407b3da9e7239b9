"""Rewarded meta-pruning: meta learning using rewards for channel pruning (arXiv 2301.11063; Mathematics 2023, 11(23), 4849)."""

from rewarded_metapruning.cost import create_pruned, network_cost
from rewarded_metapruning.reward import reward

__all__ = ["create_pruned", "network_cost", "reward"]
