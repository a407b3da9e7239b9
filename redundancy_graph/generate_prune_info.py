"""Generate pruning information; see README.md."""

import sys

from redundancy_graph.settings import main_generate

if __name__ == "__main__":
    sys.exit(main_generate())
