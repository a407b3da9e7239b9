"""Write and read search.json, which lists every candidate of a search with its metrics and rank."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.errors import UserError
from common.runs import read_json
from rewarded_metapruning.ranking import Candidate, rank_candidates
from rewarded_metapruning.scale import ALL_SCALES
from rewarded_metapruning.settings import SEARCH_FILE
from rewarded_metapruning.space import NEV, SearchSpace


def write_search(path: Path, head: Mapping[str, Any], candidates: Sequence[Candidate], finished: bool) -> None:
    """Write the candidates, best first, with ranks from 1."""
    rows = [
        {"rank": rank, **asdict(candidate), "nev": list(candidate.nev)}
        for rank, candidate in enumerate(rank_candidates(candidates), 1)
    ]
    write_json(path, {"schema": 1, "package": "rewarded_metapruning", **head, "finished": finished, "candidates": rows})


def read_search(path: Path | str) -> dict[str, Any]:
    """Return the content of a search file. Raise UserError if it is not a search file."""
    content = read_json(path)
    rows = content.get("candidates") if isinstance(content, dict) else None
    good = (
        isinstance(rows, list)
        and rows
        and all(isinstance(row, dict) and isinstance(row.get("nev"), list) for row in rows)
    )
    if not good or not isinstance(content.get("arch"), str):
        raise UserError(
            f"{path} is not a search file: it lists no candidates; pass a {SEARCH_FILE} written by search.py"
        )
    return content


def check_finished(path: Path | str, accept: bool) -> str:
    """Return a remark if the search is not finished; empty if it is. Raises UserError unless that is accepted."""
    content = read_search(path)
    if content.get("finished", True):
        return ""
    if not accept:
        raise UserError(
            f"{path}: the search is not finished (generations: {content.get('generations')}); run the same search.py command"
            " again to finish it, or use its best vector so far with --unfinished"
        )
    return f", the best so far: the search is not finished (generations: {content.get('generations')})"


def latency_remark(path: Path | str, rank: int) -> str:
    """Return what the search has measured of the vector's network, if it had a target of latency; else an empty text."""
    found = read_search(path).get("latency_target")
    if not isinstance(found, dict):
        return ""
    if rank != 1:
        return ", whose latency was not measured: the search has timed the network of rank 1"
    return (
        f", whose network takes {100 * found.get('ratio', 0):.1f} % of the unpruned network's time (measured by the search, "
        f"batch size {found.get('batch_size')})"
    )


def read_scale_range(path: Path | str) -> tuple[int, int]:
    """Return the smallest and largest entry that the search sampled; all entries if an older file does not record them."""
    content = read_search(path)
    scale_range = content.get("scale_range", content.get("scales", ALL_SCALES))  # "scales": files of older versions
    if not isinstance(scale_range, list | tuple) or [type(entry) for entry in scale_range] != [int, int]:
        raise UserError(f"{path} is damaged: its scale range is {scale_range}; give --scale-range LOW HIGH")
    return scale_range[0], scale_range[1]


def read_nev(path: Path | str, rank: int, space: SearchSpace) -> NEV:
    """Return the vector of this rank (1: the best).

    Raises:
        UserError: If the rank does not exist or the file belongs to another network.
    """
    content = read_search(path)
    if content["arch"] != space.arch:
        option = "model" if ":" in content["arch"] else "arch"
        raise UserError(
            f"{path}: the search is for {content['arch']}, not {space.arch}; use --{option} {content['arch']}"
        )
    rows = content["candidates"]
    if not 1 <= rank <= len(rows):
        raise UserError(f"--rank {rank}: {path} has only ranks 1 to {len(rows)}")
    try:
        return space.check(rows[rank - 1]["nev"])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: the vector of rank {rank} is damaged: {error}; search again or choose another rank"
        ) from error
