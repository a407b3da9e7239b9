"""Estimate how long jobs take, from the epochs in their logs, from earlier jobs on the same device, or from a table.

The table (``speeds.toml``) lists seconds per training epoch on CIFAR-10 by network and device type, with the source of each
value. ``hours`` in the plan is used for jobs whose time is not determined by epochs.
"""

import csv
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.campaign.plan import Job

SPEEDS = "speeds.json"  # in the campaign folder: {device: {network: seconds per epoch}}
EPOCH_OPTIONS = ("--epochs", "--finetune-epochs")
WEIGHTS = re.compile(r"\{weights:([\w-]+)\}")
DATA_SETS = re.compile(r"(?:--dataset |\{data:)([\w:-]+)")
CONV = "conv3x3"
OVERHEAD = 60.0  # seconds per job in addition to its epochs: loading, evaluation, saving


@cache
def load_speeds() -> dict[str, Any]:
    """Read ``speeds.toml``: {device type: {network: seconds per epoch}}."""
    return tomllib.loads((Path(__file__).parent / "speeds.toml").read_text(encoding="utf-8"))


@dataclass
class Estimates:
    """Time estimates for one machine. kind: "cpu" or "cuda", the table used for networks without measured times."""

    file: Path
    kind: str
    device: str = ""
    options: Sequence[tuple[str, tuple[str, ...]]] = ()
    quick: bool = False
    known: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            self.known = {name: {key: float(v) for key, v in speeds.items()} for name, speeds in content.items()}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            self.known = {}

    def seconds(self, job: Job) -> float | None:
        """Estimate the seconds of a job; None if unknown. ``hours`` in a plan are CPU hours; on a GPU, epochs take precedence."""
        per_epoch, epochs = self.seconds_per_epoch(job), self.epochs(job)
        by_epochs = None if per_epoch is None or epochs is None else OVERHEAD + epochs * per_epoch
        if job.hours is not None and (self.kind == "cpu" or by_epochs is None):
            return 3600.0 * job.hours
        return by_epochs

    def remaining_seconds(self, job: Job, output: Path) -> float | None:
        """Estimate the remaining seconds of a job from its log."""
        total, epochs = self.seconds(job), self.epochs(job)
        rows = epoch_seconds(output)
        if total is None or not rows or not epochs:
            return total
        return max(0.0, epochs - len(rows)) * sum(rows) / len(rows) + OVERHEAD

    def epochs(self, job: Job) -> float | None:
        """Return the number of epochs set by an option of the call, the command or the plan; None if not set."""
        more = [*(job.quick if self.quick else ()), *self.options]
        command = [*job.command, *(word for name, values in more for word in (name, *values))]
        for option in EPOCH_OPTIONS:
            values = [command[i + 1] for i, word in enumerate(command[:-1]) if word == option]
            if values and values[-1].isdigit():
                return float(values[-1])
        return job.epochs

    def seconds_per_epoch(self, job: Job) -> float | None:
        """Return the measured seconds per epoch, else those of the table, which is for CIFAR; None if unknown."""
        key = network_key(job)
        for device, speeds in self.known.items():  # the folder may contain times of other machines
            if key in speeds and device.startswith(self.kind) and self.device in ("", device):
                return speeds[key]
        words = " ".join(job.command)
        if any(not name.startswith("cifar") for name in DATA_SETS.findall(words)):
            return None
        column: Mapping[str, float] = load_speeds().get(self.kind, {})
        value = column.get(key, column.get(key.removesuffix("+amp")))
        return None if value is None else float(value)

    def record_speed(self, job: Job, output: Path, device: str) -> None:
        """Store the mean seconds per epoch of a finished job."""
        rows = epoch_seconds(output)
        if rows and device:
            self.device = device
            self.known.setdefault(device, {})[network_key(job)] = round(sum(rows) / len(rows), 3)
            write_json(self.file, self.known)


def network_key(job: Job) -> str:
    """Return what determines the time per epoch: the network's name, and ``+amp`` for mixed precision."""
    command = list(job.command)
    weights = WEIGHTS.search(" ".join(command))
    arch = command[command.index("--arch") + 1] if "--arch" in command[:-1] else weights[1] if weights else "resnet20"
    conv = "--shortcut" in command[:-1] and command[command.index("--shortcut") + 1] == CONV
    if conv or (weights and weights[1].endswith(f"-{CONV}") and not arch.endswith(CONV)):
        arch += f"-{CONV}"
    return arch + ("+amp" if "--amp" in command or any(name == "--amp" for name, _ in job.options) else "")


def epoch_seconds(output: Path) -> list[float]:
    """Read the seconds of each epoch from a run's log or the newest log of its subfolders; empty if there is none."""
    try:
        logs = [output / "log.csv"] if (output / "log.csv").is_file() else list(output.glob("*/log.csv"))
        if not logs:
            return []
        with open(max(logs, key=lambda path: path.stat().st_mtime), newline="", encoding="utf-8") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file) if row.get("seconds")]
    except (OSError, ValueError, csv.Error):
        return []
