"""Prune, quantize and encode a network with the options of the original code; see README.md."""

import sys

from deep_compression.original_main import main

if __name__ == "__main__":
    sys.exit(main())
