"""States of the jobs of a campaign folder."""

from collections.abc import Mapping
from typing import Any

from common.campaign.campaign_folder import CampaignFolder
from common.locks import is_locked


def job_state(folder: CampaignFolder, job: Mapping[str, Any]) -> tuple[str, str]:
    """Return the state of a job, and details: done, running, failed, unfinished or waiting. job: an entry of plan.json."""
    name = job["name"]
    if folder.is_done(name, job["identity"]):
        record = folder.record(name) or {}
        seconds = record.get("seconds")
        hours = f"{seconds / 3600:.2f} h, " if isinstance(seconds, int | float) else ""
        missing = "" if folder.has_files(name, job["out"]) else "; kept files are missing"
        return "done", f"{hours}{record.get('device', '')}{missing}"
    place = folder.job(name)
    if is_locked(place / "lock"):
        return "running", ""
    why = folder.failure_reason(name)
    if why is not None:
        return "failed", why[:100]
    return ("unfinished", "") if folder.log(name).is_file() else ("waiting", ", ".join(job["needs"]))
