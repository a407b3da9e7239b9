"""``python -m deep_compression STAGE``: train, prune, share, encode, decode, evaluate, report, or compress for all in a row."""

import sys

from deep_compression.commands import main

if __name__ == "__main__":
    sys.exit(main())
