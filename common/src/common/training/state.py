"""The state for resuming training: everything on which the next epoch depends, in one atomic file, and the log."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.atomic import csv_text, write_csv
from common.distributed import is_main
from common.errors import RunFolderError, UserError
from common.runs import LOG, STATE
from common.tensor_files import read_tensor_file, write_tensor_file
from common.training.step import Stateful

KEEP_EVERY_ON_CUDA = 60.0  # seconds; on a GPU, writing the file can take longer than an epoch


def best_test_top1(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the best test top-1 (percent) of all evaluated epochs; it is reported separately, never as the result."""
    return max((row["test_top1"] for row in rows if row.get("test_top1") is not None), default=None)


class SavedState:
    """The state file of one training stage in a run folder; without a folder nothing is saved.

    every: minimum seconds between two saves; None: 0 on a CPU, 60 on CUDA.
    """

    def __init__(
        self,
        folder: Path | str | None,
        stage: str,
        states: Mapping[str, Stateful],
        device: torch.device,
        every: float | None = None,
    ) -> None:
        self.file = Path(folder) / STATE if folder else None
        self.stage, self.states, self.device = stage, states, device
        self.every = (KEEP_EVERY_ON_CUDA if device.type == "cuda" else 0.0) if every is None else every
        self.saved_at = time.monotonic()

    def restore(self) -> list[dict[str, Any]]:
        """Restore the last :meth:`save` and return the log rows of finished epochs. Raises UserError if the file is damaged."""
        if self.file is None or not self.file.is_file():
            return []
        try:
            content = read_tensor_file(self.file)
            if content["stage"] != self.stage:
                return []
            for name, state in self.states.items():
                state.load_state_dict(content["states"][name])
            torch.set_rng_state(content["generators"]["cpu"])
            if self.device.type == "cuda" and "cuda" in content["generators"]:
                torch.cuda.set_rng_state(content["generators"]["cuda"], self.device)
            self._write_log(content["rows"])
            return list(content["rows"])
        except (UserError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise RunFolderError(f"{self.file}: damaged file; delete it to start this stage again") from error

    def save(self, rows: list[dict[str, Any]], force: bool) -> None:
        """Write the log; also the state if ``every`` seconds have passed or ``force`` is true."""
        if self.file is None:
            return
        if force or time.monotonic() - self.saved_at >= self.every:
            generators = {"cpu": torch.get_rng_state()}
            if self.device.type == "cuda":
                generators["cuda"] = torch.cuda.get_rng_state(self.device)
            content = {"stage": self.stage, "rows": rows, "generators": generators}
            content["states"] = {name: state.state_dict() for name, state in self.states.items()}
            write_tensor_file(self.file, content)
            self.saved_at = time.monotonic()
        self._write_log(rows)

    def _write_log(self, rows: list[dict[str, Any]]) -> None:
        """Write log.csv unless it has these rows; after a kill it may lack the last one."""
        log = Path(self.file or "").parent / LOG
        if is_main() and (not log.is_file() or log.read_bytes() != csv_text(rows).encode()):
            write_csv(log, rows)
