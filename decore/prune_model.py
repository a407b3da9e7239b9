"""Prune a trained network with DECORE; see README.md."""

import sys

from decore.command import main

if __name__ == "__main__":
    sys.exit(main())
