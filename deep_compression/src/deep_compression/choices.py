"""Values of options and arguments. This module imports nothing, so that settings and functions can both use it."""

PRUNING_RULES = ("std", "density", "global-density", "percentile")
CLUSTERING_METHODS = ("kmeans", "kmeans-relocation", "GMM", "GMM-kmeans")
CENTROID_INITS = ("linear", "density", "forgy", "companded")
ROUNDINGS = ("none", "bfloat16", "float16")
ORDERS = ("rows", "columns")  # the file format stores the index of an order in this tuple
CODERS = ("fixed", "huffman", "ans")  # the file format stores the index of a coder in this tuple
ADAPTIVE = "adaptive"  # coder of all tensors of a file whose values are integers times a step
