"""Train the network of a chosen vector (stage 3); see README.md."""

import sys

from rewarded_metapruning.pasted_vector import array, int32, int64, np, numpy  # noqa: F401  (names in pasted vectors)
from rewarded_metapruning.train_chosen import main

# Paste a vector of search.txt between the quotes, or replace them: [14, 14, ...] or array([14, 14, ...]).
# If there is none, --nev, --nev-file or the best vector of searching/search.json is used.
network_encoding_vector = """
"""

if __name__ == "__main__":
    sys.exit(main(network_encoding_vector=network_encoding_vector))
