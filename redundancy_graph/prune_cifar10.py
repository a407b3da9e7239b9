"""Prune and fine-tune a network on CIFAR-10; see README.md."""

import sys

from redundancy_graph.settings import main_cifar10

if __name__ == "__main__":
    sys.exit(main_cifar10())
