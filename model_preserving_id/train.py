"""Fine-tune a compressed network; see README.md."""

import sys

from model_preserving_id.settings import train_main

if __name__ == "__main__":
    sys.exit(train_main())
