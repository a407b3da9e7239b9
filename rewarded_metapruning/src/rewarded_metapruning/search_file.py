"""search.json: every candidate of a search with what it was chosen by; and picking a vector from it by rank."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.errors import UserError
from common.runs import read_json
from rewarded_metapruning.ranking import Candidate, ranked
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import SEARCH_FILE
from rewarded_metapruning.space import NEV, SearchSpace


def write_search(path: Path, head: Mapping[str, Any], candidates: Sequence[Candidate], finished: bool) -> None:
    """Best first; each with its rank, beginning with 1."""
    rows = [
        {"rank": rank, **asdict(candidate), "nev": list(candidate.nev)}
        for rank, candidate in enumerate(ranked(candidates), 1)
    ]
    write_json(path, {"schema": 1, "package": "rewarded_metapruning", **head, "finished": finished, "candidates": rows})


def read_search(path: Path | str) -> dict[str, Any]:
    """The content of a search file. Raises UserError if it is none."""
    content = read_json(path)
    rows = content.get("candidates") if isinstance(content, dict) else None
    good = (
        isinstance(rows, list)
        and rows
        and all(isinstance(row, dict) and isinstance(row.get("nev"), list) for row in rows)
    )
    if not good or not isinstance(content.get("arch"), str):
        raise UserError(f"{path} is no search file: it lists no candidates; search.py writes {SEARCH_FILE}")
    return content


def searched_scales(path: Path | str) -> tuple[int, int]:
    """Least and largest entry that the search drew; all in a file of a time when this was not written down."""
    scales = read_search(path).get("scales", ALL_SCALES)
    if not isinstance(scales, list | tuple) or [type(entry) for entry in scales] != [int, int]:
        raise UserError(f"{path} is damaged: its scales are {scales}; say --scales LOW HIGH")
    return scales[0], scales[1]


def nev_of_rank(path: Path | str, rank: int, space: SearchSpace) -> NEV:
    """The vector of this rank (1 is the best). Raises UserError for a rank that is not there or a file of another network."""
    content = read_search(path)
    if content["arch"] != space.arch:
        option = "model" if ":" in content["arch"] else "arch"
        raise UserError(f"{path} is a search for {content['arch']}, not {space.arch}; say --{option} {content['arch']}")
    rows = content["candidates"]
    if not 1 <= rank <= len(rows):
        raise UserError(f"--rank {rank}: {path} has ranks 1 to {len(rows)}")
    try:
        return space.check(rows[rank - 1]["nev"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: the vector of rank {rank} is damaged: {error}") from error
