"""Factorize a network pruned by ID with PCA; see README.md."""

from model_preserving_id.script_functions import pca_prune

__all__ = ["pca_prune"]
