"""A package's public names, imported when they are asked for: importing one of its modules does not import all of them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package. places: its public names and the modules below it that define them.

    A name must not be that of a module of the package: which of the two one gets would depend on what was imported before.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return __getattr__
