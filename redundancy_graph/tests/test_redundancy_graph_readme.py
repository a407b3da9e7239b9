"""Generated tables are up to date, here and in the README of the root."""

from common.testing import check_generated_docs
from redundancy_graph.paper.tables import TABLES


def test_generated_pages_are_current():
    check_generated_docs("redundancy_graph", TABLES)
