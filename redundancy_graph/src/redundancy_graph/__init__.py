"""Filter pruning by decomposition of redundancy graphs (Li, Shao, Deng, Jiang; Neurocomputing 2024, 128108)."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from redundancy_graph.graph import select_filters
    from redundancy_graph.similarity import filter_similarity

__all__ = ["filter_similarity", "select_filters"]

__getattr__ = lazy_names(__name__, {"filter_similarity": "similarity", "select_filters": "graph"})
