"""Log lines on the terminal and in files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common.distributed import is_main

Log = Callable[[str], None]


@contextmanager
def log_to(paths: list[Path]) -> Iterator[Log]:
    """Yield a function that prints a line and appends it to every file, in the main process only.

    Existing files are continued. Missing folders are created. Raises OSError, with the file's name, if a line cannot be written.
    """
    with ExitStack() as stack:
        files = []
        for path in paths if is_main() else []:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(open(path, "ab", buffering=0)))

        def log(line: str) -> None:
            if is_main():
                print(line, flush=True)
            for file in files:
                try:
                    file.write(f"{line}\n".encode())
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(file.name)) from error

        yield log


def epoch_logger(label: str, epochs: int, log: Log, activity: str = "fine-tuning") -> Callable[[int], dict[str, Any]]:
    """Return a hook ``after_epoch`` that logs every finished epoch, for logs without a progress bar."""

    def after_epoch(epoch: int) -> dict[str, Any]:
        log(f"{label}: epoch {epoch + 1} of {epochs} of {activity} is done")
        return {}

    return after_epoch
