"""Cache evaluated candidates on disk, one line per candidate, so that no candidate is evaluated twice after an interruption.

Under torchrun, the candidates of a generation are divided among the processes. Afterwards, every process has the metrics of
all candidates, bit-identical to those of a single process.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from common.atomic import write_text
from common.distributed import barrier, rank, sum_over_ranks, world_size
from common.errors import UserError
from common.progress import track
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.space import NEV

PATTERN = "tested-*.jsonl"


class EvaluationCache:
    """Cache of a search. ``evaluate_all`` evaluates only candidates that are not cached.

    Args:
        folder: Folder of the cache files. None: keep the cache in memory only.
        evaluate: Function that evaluates one NEV.
    """

    def __init__(
        self, folder: Path | None, evaluate: Callable[[NEV], CandidateMetrics], device: torch.device | str = "cpu"
    ) -> None:
        self.evaluate, self.device = evaluate, torch.device(device)
        self.known: dict[NEV, CandidateMetrics] = {}
        self.file = folder / f"tested-{rank()}.jsonl" if folder else None
        if folder:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        complete: list[str] | None = None
        for file in sorted(folder.glob(PATTERN)):
            lines, truncated = _complete_lines(file)
            self.known |= dict(_parse(line, file) for line in lines)
            if file == self.file and truncated:
                complete = lines
        barrier()  # all processes read all files before one is repaired
        if complete is not None and self.file is not None:
            write_text(self.file, "".join(f"{line}\n" for line in complete))

    def evaluate_all(self, nevs: Sequence[NEV]) -> list[CandidateMetrics]:
        """Return the metrics of these NEVs, in the same order."""
        todo = [nev for nev in nevs if nev not in self.known]
        mine = list(enumerate(todo))[rank() :: world_size()]
        table = torch.zeros(len(todo), 3, dtype=torch.float64, device=self.device)
        for place, nev in track(mine, "evaluate candidates"):
            metrics = self.evaluate(nev)
            self._append(nev, metrics)
            table[place] = torch.tensor(list(asdict(metrics).values()), dtype=torch.float64)
        if todo:
            sum_over_ranks(table)  # each row is nonzero in one process only, so the sum is exact
        for nev, row in zip(todo, table.tolist(), strict=True):
            self.known[nev] = CandidateMetrics(*row)
        return [self.known[nev] for nev in nevs]

    def _append(self, nev: NEV, metrics: CandidateMetrics) -> None:
        if self.file is None:
            return
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"nev": list(nev), **asdict(metrics)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _complete_lines(file: Path) -> tuple[list[str], bool]:
    """Return (complete lines, whether a truncated line follows them)."""
    text = file.read_text(encoding="utf-8", errors="replace")
    complete, newline, rest = text.rpartition("\n")
    return complete.splitlines() if newline else [], bool(rest)


def _parse(line: str, file: Path) -> tuple[NEV, CandidateMetrics]:
    try:
        entry = json.loads(line)
        numbers = (float(entry[key]) for key in ("top1", "top5", "loss"))
        return tuple(int(value) for value in entry["nev"]), CandidateMetrics(*numbers)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file} is damaged; delete it, or restart the search with --force") from error
