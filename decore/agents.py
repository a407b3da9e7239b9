"""The seed's module of this name: agents and how they are attached."""

from decore import Agents
from decore.seed_names import Agent, attach_agents

__all__ = ["Agent", "Agents", "attach_agents"]
