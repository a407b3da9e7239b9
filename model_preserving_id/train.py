"""Fine-tune a compressed network; see README.md."""

import sys

from model_preserving_id.finetune import main

if __name__ == "__main__":
    sys.exit(main())
