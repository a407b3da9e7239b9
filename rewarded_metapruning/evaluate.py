"""Stage 3, train a chosen network; see README.md."""

import sys

from rewarded_metapruning.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
