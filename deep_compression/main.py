"""Prune, share and encode a network, with the seed's options; see README.md."""

import sys

from deep_compression.seed_main import main

if __name__ == "__main__":
    sys.exit(main())
