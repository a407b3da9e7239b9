"""The functions of the original README as its scripts offer them: in a program, invalid input ends in one line and status 2."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from common.cli import run
from model_preserving_id import compose, original_api

P = ParamSpec("P")
T = TypeVar("T")


def end_in_one_line(function: Callable[P, T]) -> Callable[P, T]:
    """Exit with one line on standard error after invalid input; in an interactive session, errors are raised as usual."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        if hasattr(sys, "ps1"):  # exiting would end the session
            return function(*args, **kwargs)
        found: list[T] = []
        status = run(lambda _: found.append(function(*args, **kwargs)))
        if status:
            sys.exit(status)
        return found[0]

    return wrapped


create_args = original_api.create_args
iditer = end_in_one_line(original_api.iditer)
id = end_in_one_line(original_api.id)
pca_prune = end_in_one_line(compose.pca_prune)
lrank_prune = end_in_one_line(compose.lrank_prune)
alds_prune = end_in_one_line(compose.alds_prune)
