"""What was measured for a latency target, kept in the run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.distributed import barrier, is_main
from common.runs import LATENCY_TARGET, read_record


class Measured:
    """Measured values by name, in ``latency-target.json``: a run that resumes decides as it would have without the interruption.

    Of several processes, only the first one measures; the others read what it has written.

    Args:
        folder: The run folder.
        machine: What the values depend on; those of another machine are measured again.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self.file, self.machine = folder / LATENCY_TARGET, dict(machine)

    def get(self, name: str, measure: Callable[[], Any], about: Any = None) -> Any:
        """Return a value that was measured before, or measure it now.

        Args:
            measure: Returns the value, as JSON has it.
            about: What the value belongs to, such as the widths of a network; a value of something else is measured again.
        """
        if is_main():
            known = self._read()
            if name not in known or known[name]["about"] != about:
                known[name] = {"about": about, "value": measure()}
                write_json(self.file, {"machine": self.machine, "measured": known})
        barrier()
        return read_record(self.file)["measured"][name]["value"]

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        record = read_record(self.file)
        return dict(record["measured"]) if record["machine"] == self.machine else {}
