"""DECORE: Deep Compression with Reinforcement Learning (Alwani, Wang, Madhavan; CVPR 2022, arXiv 2106.06091)."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from decore.agents import Agents

__all__ = ["Agents"]

__getattr__ = lazy_names(__name__, {"Agents": "agents"})
