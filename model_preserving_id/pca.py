"""Factorize a network pruned by ID with PCA; see README.md."""

from model_preserving_id.compose import pca_prune

__all__ = ["pca_prune"]
