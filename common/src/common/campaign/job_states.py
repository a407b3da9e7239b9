"""States of the jobs of a campaign folder."""

from collections.abc import Mapping
from typing import Any

from common.campaign.campaign_folder import CampaignFolder
from common.errors import UserError
from common.locks import is_locked
from common.runs import METRICS, read_json


def job_state(folder: CampaignFolder, job: Mapping[str, Any]) -> tuple[str, str]:
    """Return the state of a job, and details: done, running, failed, unfinished or waiting. job: an entry of plan.json."""
    name = job["name"]
    if folder.is_done(name, job["identity"]):
        record = folder.record(name) or {}
        seconds = max(_seconds(record), _seconds_of_run(folder, job))
        hours = f"{seconds / 3600:.2f} h, " if seconds else ""
        missing = "" if folder.has_files(name, job["out"]) else "; kept files are missing"
        return "done", f"{hours}{record.get('device', '')}{missing}"
    place = folder.job(name)
    if is_locked(place / "lock"):
        return "running", ""
    why = folder.failure_reason(name)
    if why is not None:
        return "failed", why[:100]
    return ("unfinished", "") if folder.log(name).is_file() else ("waiting", ", ".join(job["needs"]))


def _seconds(record: Mapping[str, Any]) -> float:
    seconds = record.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _seconds_of_run(folder: CampaignFolder, job: Mapping[str, Any]) -> float:
    """Return the seconds of the longest run of a job, which include calls whose campaign was killed; 0 if unknown.

    Jobs that share an output folder are not distinguished there.
    """
    if sum(other["out"] == job["out"] for other in folder.jobs()) > 1:
        return 0.0
    found = [0.0]
    for file in (folder.root / "runs" / job["out"]).rglob(METRICS):
        try:
            content = read_json(file)
            found.append(_seconds(content) if isinstance(content, dict) else 0.0)
        except UserError:  # damaged
            continue
    return max(found)
