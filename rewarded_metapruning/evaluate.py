"""Train the network of a chosen vector (stage 3); see README.md."""

import sys

from rewarded_metapruning.train_chosen import main

if __name__ == "__main__":
    sys.exit(main())
