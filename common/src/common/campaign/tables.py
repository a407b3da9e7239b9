"""Add the runs of finished jobs to the packages' results and regenerate their README tables."""

import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.campaign.campaign_folder import CampaignFolder
from common.errors import UserError
from common.runs import METRICS, read_json


def add_results(folder: CampaignFolder) -> Iterator[str]:
    """Call ``python -m PACKAGE.paper.tables --add`` with the run folders of all finished jobs; yield a line per package."""
    runs: dict[str, list[Path]] = {}
    for job in folder.jobs():
        if folder.is_done(job["name"], job["identity"]):
            for package, found in run_folders(folder.root / "runs" / job["out"]).items():
                runs.setdefault(package, []).extend(path for path in found if path not in runs.get(package, []))
    failed = []
    for package, found in runs.items():
        main = _tables_main(package)
        if main is None:
            yield f"{package}: no results folder; {len(found)} runs remain in {folder.root}"
            continue
        status = main(["--add", *map(str, found)])
        failed += [package] if status else []
        yield f"{package}: {len(found)} runs" + (f", exit status {status}" if status else "")
    if failed:
        raise UserError(f"{', '.join(failed)}: the tables were not regenerated; the errors are above")


def run_folders(out: Path) -> dict[str, list[Path]]:
    """Return {package: finished run folders below a job's output}. A comparison counts as one run: the folder of its report."""
    found: dict[str, list[Path]] = {}
    if any(out.glob("seed*")):
        return {"compare": [out]}
    for file in sorted(out.rglob(METRICS)):
        package = read_json(file).get("package")
        if isinstance(package, str):
            found.setdefault(package, []).append(file.parent)
    return found


def _tables_main(package: str) -> Callable[[list[str]], Any] | None:
    """Return ``main`` of a package's tables if it accepts --add, else None."""
    if not package.isidentifier() or not all(map(find_spec, (package, f"{package}.paper", f"{package}.paper.tables"))):
        return None  # not installed, or from a wheel
    module = importlib.import_module(f"{package}.paper.tables")
    return module.main if hasattr(module, "add_result") or package == "compare" else None
