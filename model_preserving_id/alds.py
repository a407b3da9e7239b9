"""Factorize a network with ALDS, the original code's reference method; see README.md."""

from model_preserving_id.script_functions import alds_prune

__all__ = ["alds_prune"]
