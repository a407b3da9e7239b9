"""Names that options and functions take: no import, so that neither needs the other's."""

RULES = ("std", "density", "global-density", "percentile")
METHODS = ("kmeans", "GMM", "GMM-kmeans")
INITS = ("linear", "density", "forgy", "companded")
ROUNDINGS = ("none", "bfloat16", "float16")
ORDERS = ("rows", "columns")  # the file format stores an order by its place here
CODERS = ("fixed", "huffman", "ans")  # the file format stores a coder by its place here
