"""Vectors pasted into ``evaluate.py``, as the original code's README instructs. Imports no numpy: ``-h`` has to be fast.

The script imports ``array``, ``np`` and ``numpy``, so that ``array([14, 14, ...])`` and ``np.array([14, 14, ...])`` are valid there.
"""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from common.errors import UserError
from rewarded_metapruning.settings import TrainChosen

PASTED = "network_encoding_vector in evaluate.py"


def array(values: Any, dtype: object = None) -> Any:
    """Return the values of a pasted NumPy array as they are."""
    return values


int32 = int64 = int
np = numpy = SimpleNamespace(array=array, asarray=array, int32=int, int64=int)


def pasted_text(vector: object) -> str | None:
    """Return the text of a pasted vector: a text, a list, a tuple or an array. None if there is none."""
    values = vector.tolist() if hasattr(vector, "tolist") else vector
    text = str(list(values)) if isinstance(values, Iterable) and not isinstance(values, str) else str(values)
    return None if vector is None or not text.strip() else text


def use_pasted_vector(settings: TrainChosen, vector: object) -> tuple[TrainChosen, str | None]:
    """Return the settings with the pasted vector as --nev, and its origin for messages; None if no vector is pasted.

    Raises:
        UserError: If an option gives a vector as well.
    """
    text, options = pasted_text(vector), settings.vector
    if text is None:
        return settings, None
    if options.nev is not None or options.nev_file is not None or options.rank != 1:
        raise UserError(
            f"{PASTED} and --nev, --nev-file or --rank exclude each other; remove the pasted vector or the option"
        )
    try:
        changed = replace(options, nev=text)  # type: ignore[type-var]  # mypy does not take settings for a dataclass here
    except UserError as error:
        raise UserError(f"{PASTED}: {str(error).removeprefix('--nev: ')}") from error
    return replace(settings, vector=changed), PASTED  # type: ignore[type-var]
