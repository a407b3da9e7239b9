"""Candidates that were evaluated, on disk: each process appends a line, so that none is evaluated twice after an interruption.

Under torchrun the candidates of a generation are shared out; every process then knows the metrics of all, bit-identical to
those of a single process.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from common.atomic import write_text
from common.distributed import barrier, is_main, rank, sum_over_ranks, world_size
from common.errors import UserError
from rewarded_metapruning.evaluator import CandidateMetrics
from rewarded_metapruning.space import NEV

PATTERN = "tested-*.jsonl"


class EvaluationCache:
    """The memory of a search: ``evaluate_all`` evaluates what it does not hold yet. With no folder nothing is kept on disk."""

    def __init__(
        self, folder: Path | None, evaluate: Callable[[NEV], CandidateMetrics], device: torch.device | str = "cpu"
    ) -> None:
        self.evaluate, self.device = evaluate, torch.device(device)
        self.known: dict[NEV, CandidateMetrics] = {}
        self.file = folder / f"tested-{rank()}.jsonl" if folder else None
        if folder:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        torn: list[str] | None = None
        for file in sorted(folder.glob(PATTERN)):
            lines, cut_short = _whole_lines(file)
            self.known |= dict(_parse(line, file) for line in lines)
            if file == self.file and cut_short:
                torn = lines
        barrier()  # every process has read all files before one of them is mended
        if torn is not None and self.file is not None:
            write_text(self.file, "".join(f"{line}\n" for line in torn))

    def evaluate_all(self, nevs: Sequence[NEV]) -> list[CandidateMetrics]:
        """Metrics of these NEVs, in their order."""
        todo = [nev for nev in nevs if nev not in self.known]
        mine = list(enumerate(todo))[rank() :: world_size()]
        table = torch.zeros(len(todo), 3, dtype=torch.float64, device=self.device)
        for place, nev in tqdm(mine, desc="evaluate", disable=None if is_main() else True, leave=False):
            metrics = self.evaluate(nev)
            self._keep(nev, metrics)
            table[place] = torch.tensor(list(asdict(metrics).values()), dtype=torch.float64)
        if todo:
            sum_over_ranks(table)  # each row is zero in all processes but one: the sum is exact
        for nev, row in zip(todo, table.tolist(), strict=True):
            self.known[nev] = CandidateMetrics(*row)
        return [self.known[nev] for nev in nevs]

    def _keep(self, nev: NEV, metrics: CandidateMetrics) -> None:
        if self.file is None:
            return
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"nev": list(nev), **asdict(metrics)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(file: Path) -> tuple[list[str], bool]:
    """(lines that were written to their end, whether something torn follows them)."""
    text = file.read_text(encoding="utf-8", errors="replace")
    whole, newline, rest = text.rpartition("\n")
    return whole.splitlines() if newline else [], bool(rest)


def _parse(line: str, file: Path) -> tuple[NEV, CandidateMetrics]:
    try:
        entry = json.loads(line)
        numbers = (float(entry[key]) for key in ("top1", "top5", "loss"))
        return tuple(int(value) for value in entry["nev"]), CandidateMetrics(*numbers)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; delete it, or use --force, to begin the search anew") from error
