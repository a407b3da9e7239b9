"""Stage 1, train a PruningNet; see README.md."""

import sys

from rewarded_metapruning.train import main

if __name__ == "__main__":
    sys.exit(main())
