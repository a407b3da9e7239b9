"""The table of hostile files: each costs one line and exit status 2, within bounds, and the table is up to date."""

import json

from common.paper.hostile_files import answers
from common.paper.tables import HOSTILE, hostile_table
from common.testing import assert_bounded


def test_stored_answers_to_hostile_files_are_up_to_date():
    record = json.loads(HOSTILE.read_text(encoding="utf-8"))
    assert HOSTILE.with_suffix(".md").read_text(encoding="utf-8") == hostile_table(record)
    with assert_bounded(seconds=300):
        rows = list(answers())
    assert [(row["what"], row["answer"]) for row in rows] == [(row["what"], row["answer"]) for row in record["rows"]]
    assert all(row["status"] == 2 and row["answer"].startswith("error: ") and len(row["answer"]) < 400 for row in rows)
