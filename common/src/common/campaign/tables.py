"""What finished jobs made becomes results of the packages, and their READMEs' tables are written again."""

import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.campaign.folder import Folder
from common.errors import UserError
from common.runs import METRICS, read_json


def add_results(folder: Folder) -> Iterator[str]:
    """Call ``python -m PACKAGE.paper.tables --add`` with the run folders of every finished job that the package keeps; lines about it."""
    runs: dict[str, list[Path]] = {}
    for job in folder.jobs():
        if folder.is_done(job["name"], job["identity"]):
            for package, found in run_folders(folder.root / "runs" / job["out"]).items():
                runs.setdefault(package, []).extend(path for path in found if path not in runs.get(package, []))
    failed = []
    for package, found in runs.items():
        main = _tables_of(package)
        if main is None:
            yield f"{package}: has no results folder; {len(found)} runs stay in {folder.root}"
            continue
        status = main(["--add", *map(str, found)])
        failed += [package] if status else []
        yield f"{package}: {len(found)} runs" + (f", exit status {status}" if status else "")
    if failed:
        raise UserError(f"the tables of {', '.join(failed)} were not written")


def run_folders(out: Path) -> dict[str, list[Path]]:
    """{package: its finished runs below a job's output}; a comparison counts as one, at the folder of its report."""
    found: dict[str, list[Path]] = {}
    if any(out.glob("seed*")):
        return {"compare": [out]}
    for file in sorted(out.rglob(METRICS)):
        package = read_json(file).get("package")
        if isinstance(package, str):
            found.setdefault(package, []).append(file.parent)
    return found


def _tables_of(package: str) -> Callable[[list[str]], Any] | None:
    """``main`` of a package's tables, if it takes --add."""
    if not package.isidentifier() or not all(map(find_spec, (package, f"{package}.paper", f"{package}.paper.tables"))):
        return None  # not installed, or from a wheel
    module = importlib.import_module(f"{package}.paper.tables")
    return module.main if hasattr(module, "add_result") or package == "compare" else None
