"""How long jobs take: from the seconds of their epochs so far, of earlier jobs on the same device, else from a table.

The table (``speeds.toml``) has seconds of a training epoch on CIFAR-10 by network and kind of machine; the source of each
figure is in it. A job's ``hours`` in the plan stand where epochs do not tell.
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

SPEEDS = "speeds.json"  # in a campaign's folder: {device: {network: seconds of an epoch}}
EPOCH_OPTIONS = ("--epochs", "--finetune-epochs")
WEIGHTS = re.compile(r"\{weights:([\w-]+)\}")
CONV = "conv3x3"
OVERHEAD = 60.0  # seconds of a job beside its epochs: reading, evaluating, writing


@cache
def table() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "speeds.toml").read_text(encoding="utf-8"))


@dataclass
class Estimates:
    """Seconds per epoch on one machine. kind: a column of the table for networks that have not been seen here."""

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
        except (OSError, ValueError, AttributeError, TypeError):
            self.known = {}

    def seconds(self, job: Job) -> float | None:
        """Of the whole job; None if nothing tells. A plan's hours are those of a CPU: on a card epochs tell more."""
        per_epoch, epochs = self.seconds_per_epoch(job), self.epochs(job)
        by_epochs = None if per_epoch is None or epochs is None else OVERHEAD + epochs * per_epoch
        if job.hours is not None and (self.kind == "cpu" or by_epochs is None):
            return 3600.0 * job.hours
        return by_epochs

    def seconds_left(self, job: Job, output: Path) -> float | None:
        """Of what is left, its log considered."""
        whole, epochs = self.seconds(job), self.epochs(job)
        rows = epoch_seconds(output)
        if whole is None or not rows or not epochs:
            return whole
        return max(0.0, epochs - len(rows)) * sum(rows) / len(rows) + OVERHEAD

    def epochs(self, job: Job) -> float | None:
        """As its command says, or an option for all."""
        more = [*(job.quick if self.quick else ()), *self.options]
        words = [*job.words, *(word for name, values in more for word in (name, *values))]
        for option in EPOCH_OPTIONS:
            values = [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]
            if values and values[-1].isdigit():
                return float(values[-1])
        return job.epochs

    def seconds_per_epoch(self, job: Job) -> float | None:
        key = network(job)
        for device, speeds in self.known.items():  # of this kind: a folder may come from another machine
            if key in speeds and device.startswith(self.kind) and self.device in ("", device):
                return speeds[key]
        column: Mapping[str, float] = table().get(self.kind, {})
        value = column.get(key, column.get(key.removesuffix("+amp")))
        return None if value is None else float(value)

    def learn(self, job: Job, output: Path, device: str) -> None:
        """Remember the seconds of a finished job's epochs."""
        rows = epoch_seconds(output)
        if rows and device:
            self.device = device
            self.known.setdefault(device, {})[network(job)] = round(sum(rows) / len(rows), 3)
            write_json(self.file, self.known)


def network(job: Job) -> str:
    """What an epoch's time depends on: the network, as weights or options name it, and mixed precision."""
    words = list(job.words)
    weights = WEIGHTS.search(" ".join(words))
    arch = words[words.index("--arch") + 1] if "--arch" in words[:-1] else weights[1] if weights else "resnet20"
    conv = "--shortcut" in words[:-1] and words[words.index("--shortcut") + 1] == CONV
    if conv or (weights and weights[1].endswith(f"-{CONV}") and not arch.endswith(CONV)):
        arch += f"-{CONV}"
    return arch + ("+amp" if "--amp" in words or any(name == "--amp" for name, _ in job.options) else "")


def epoch_seconds(output: Path) -> list[float]:
    """The seconds of the epochs in a run's log, or in the newest one of its folders; empty where there is none."""
    try:
        logs = [output / "log.csv"] if (output / "log.csv").is_file() else list(output.glob("*/log.csv"))
        if not logs:
            return []
        with open(max(logs, key=lambda path: path.stat().st_mtime), newline="", encoding="utf-8") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file) if row.get("seconds")]
    except (OSError, ValueError, csv.Error):
        return []
