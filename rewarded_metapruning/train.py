"""Train a PruningNet (stage 1); see README.md."""

import sys

from rewarded_metapruning.train_pruning_net import main

if __name__ == "__main__":
    sys.exit(main())
