"""Prune a trained network with DECORE; see README.md."""

import sys

from decore.settings import main_prune as main

if __name__ == "__main__":
    sys.exit(main())
