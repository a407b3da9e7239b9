"""``python -m model_preserving_id``: the command of main.py."""

import sys

from model_preserving_id.settings import prune_main

if __name__ == "__main__":
    sys.exit(prune_main())
