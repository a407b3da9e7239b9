"""Model preserving compression with the interpolative decomposition (Chee, Flynn, Damle, De Sa; NeurIPS 2022)."""

from model_preserving_id.decomposition import interpolative_decomposition
from model_preserving_id.prune import prune_network

__all__ = ["interpolative_decomposition", "prune_network"]
