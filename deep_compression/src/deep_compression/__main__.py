"""``python -m deep_compression STAGE``: train, prune, quantize, encode, compress (the last three), decode, evaluate or report."""

import sys

from deep_compression.commands import main

if __name__ == "__main__":
    sys.exit(main())
