"""Search for the best vectors (stage 2); see README.md."""

import sys

from rewarded_metapruning.search import main

if __name__ == "__main__":
    sys.exit(main())
