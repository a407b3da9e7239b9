"""Model preserving compression with the interpolative decomposition (Chee, Flynn, Damle, De Sa; NeurIPS 2022)."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from model_preserving_id.decomposition import interpolative_decomposition
    from model_preserving_id.prune import prune_network

__all__ = ["interpolative_decomposition", "prune_network"]

__getattr__ = lazy_names(__name__, {"interpolative_decomposition": "decomposition", "prune_network": "prune"})
