"""PCA on top of an ID network; see README.md."""

from model_preserving_id.compose import pca_prune

__all__ = ["pca_prune"]
