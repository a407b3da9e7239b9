"""What is generated is up to date: tables from the result files, here and in the root's README."""

from common.testing import check_generated_docs
from deep_compression.paper.tables import TABLES


def test_generated_pages_are_current():
    check_generated_docs("deep_compression", TABLES)
