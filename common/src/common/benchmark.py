"""What a benchmark measured, as a file behind a README's numbers: both raw series, the ratios and what they had to reach."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.atomic import write_json
from common.results import markdown_table
from common.runs import describe_environment, read_json


@dataclass(frozen=True)
class Ratio:
    """One figure: ``value`` of ``what`` against ``against``; ``bound`` is its floor, or its ceiling if ``at_most``."""

    what: str
    against: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def write_benchmark(
    path: Path | str, command: str, unit: str, series: Mapping[str, Sequence[float]], ratios: Sequence[Ratio]
) -> None:
    """Write series (raw, in ``unit``), their medians, ratios, environment and the command that made them."""
    record = {
        "command": command,
        "unit": unit,
        "medians": {name: round(statistics.median(values), 4) for name, values in series.items()},
        "series": {name: [round(value, 4) for value in values] for name, values in series.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "environment": describe_environment("cpu"),
    }
    write_json(path, record)


def speed_table(folder: Path | str, pattern: str = "speed-*.json") -> str:
    """All ratios of a folder's benchmark files as Markdown."""
    rows = []
    for file in sorted(Path(folder).glob(pattern)):
        record = read_json(file)
        for ratio in (Ratio(**entry) for entry in record["ratios"]):
            bound = f"{'at most' if ratio.at_most else 'at least'} {ratio.bound:g}x"
            rows.append([ratio.what, ratio.against, f"{ratio.value:.3g}x", bound, f"`{record['command']}`"])
    if not rows:
        return "Not measured yet."
    return markdown_table(["what", "against", "measured", "wanted", "command"], rows)
