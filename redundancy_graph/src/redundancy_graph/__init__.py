"""Filter pruning by decomposition of redundancy graphs (Li, Shao, Deng, Jiang; Neurocomputing 2024, 128108)."""

from redundancy_graph.graph import select_filters
from redundancy_graph.similarity import filter_similarity

__all__ = ["filter_similarity", "select_filters"]
