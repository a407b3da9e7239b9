"""Stage 2, search for the best vectors; see README.md."""

import sys

from rewarded_metapruning.search import main

if __name__ == "__main__":
    sys.exit(main())
