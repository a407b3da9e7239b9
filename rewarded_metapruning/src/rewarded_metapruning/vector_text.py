"""The text of an encoding vector (NEV): its notations and its range. Imports no torch: options are checked before images are read."""

import re
from collections.abc import Sequence

from common.errors import UserError
from rewarded_metapruning.scale import FULL

NEV = tuple[int, ...]
UNPRUNED, PUBLISHED = "unpruned", "published"  # names of vectors

# What may stand around the numbers of a vector: a variable's name or a rank, brackets, array(...) or tuple(...), a dtype, and
# what search.py prints after the vector.
AROUND = re.compile(
    r"(?:[A-Za-z_]\w* ?= ?|No\.\d+: ?)?[\[( ]*(?:(?:(?:np|numpy)\.)?array|tuple|list)?[\[( ]*"
    r"(-?\d[-\d, ]*?)"
    r"[\]), ]*(?:dtype ?= ?[\w.]+[\]), ]*)?(?:MACs = .*)?"
)


def parse_nev(text: str) -> NEV:
    """Parse the text of a vector, without executing it; it may have several lines.

    Lists and NumPy arrays, as Python source or as printed: ``14,14,16``, ``[14, 14, 16]``, ``[14 14 16]``,
    ``nev = np.array([14, 14, 16])``; and the lines that search.py prints: ``No.1: [14, 14, 16] MACs = 1950.24M, ...``.

    Raises:
        UserError: If the text is not a vector.
    """
    plain = re.sub(r"(?:np|numpy)\.int\d+\((-?\d+)\)", r"\1", text)  # NumPy's integers in a list
    found = AROUND.fullmatch(" ".join(plain.split()))
    if not found or not re.fullmatch(r"-?\d{1,9}(?: ?, ?-?\d{1,9}| -?\d{1,9})*", found[1]):
        raise UserError(
            f"{text[:80]!r} is not an encoding vector; write it as 14,14,16,... or [14, 14, 16, ...], with entries from 0 to {FULL}"
        )
    return tuple(int(number) for number in re.findall(r"-?\d+", found[1]))


def check_entries(nev: Sequence[int]) -> None:
    """Raise UserError if an entry is outside 0 to 30."""
    for place, entry in enumerate(nev):
        if not 0 <= entry <= FULL:
            raise UserError(f"encoding vector: entry {place} is {entry}; entries must be 0 to {FULL}")


def check_vector(text: str) -> None:
    """Raise UserError if a text is neither the name of a vector nor a vector with entries from 0 to 30."""
    if text not in (UNPRUNED, PUBLISHED):
        check_entries(parse_nev(text))
