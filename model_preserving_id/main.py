"""Prune a network with the interpolative decomposition: a command, and the functions of the original README; see README.md."""

import sys
from typing import TYPE_CHECKING

from common.lazy import lazy_names
from model_preserving_id.settings import prune_main

if TYPE_CHECKING:
    from model_preserving_id.script_functions import create_args, id, iditer

__all__ = ["create_args", "id", "iditer", "prune_main"]

__getattr__ = lazy_names("model_preserving_id", dict.fromkeys(("create_args", "id", "iditer"), "script_functions"))

if __name__ == "__main__":
    sys.exit(prune_main())
