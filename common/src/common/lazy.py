"""Lazy imports of a package's public names (PEP 562): importing one of its modules does not import all of them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package. places: public names and the submodules that define them.

    A name must differ from those of the package's modules; otherwise its meaning would depend on earlier imports.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return __getattr__
