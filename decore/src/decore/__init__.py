"""DECORE: Deep Compression with Reinforcement Learning (Alwani, Wang, Madhavan; CVPR 2022, arXiv 2106.06091)."""

from decore.agents import Agents

__all__ = ["Agents"]
