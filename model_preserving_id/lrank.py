"""Factorize a network pruned by ID with LRank; see README.md."""

from model_preserving_id.script_functions import lrank_prune

__all__ = ["lrank_prune"]
