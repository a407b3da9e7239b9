"""Module ``agents`` of the original code: agents and a function that attaches them."""

from decore import Agents
from decore.original_api import Agent, attach_agents

__all__ = ["Agent", "Agents", "attach_agents"]
