"""Prune a network with the interpolative decomposition: functions of the original README, and a command; see README.md."""

import sys

from model_preserving_id.command import main
from model_preserving_id.seed_api import create_args, id, iditer

__all__ = ["create_args", "id", "iditer", "main"]

if __name__ == "__main__":
    sys.exit(main())
