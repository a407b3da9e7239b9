"""Generate pruning information; see README.md."""

import sys

from redundancy_graph.generate import main

if __name__ == "__main__":
    sys.exit(main())
