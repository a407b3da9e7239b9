"""Prune and fine-tune a network on ImageNet; see README.md."""

import sys

from redundancy_graph.settings import main_imagenet

if __name__ == "__main__":
    sys.exit(main_imagenet())
