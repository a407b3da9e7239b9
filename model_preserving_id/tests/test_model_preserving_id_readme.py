"""What is generated is up to date: tables from the result files, here and in the root's README."""

from common.testing import pages_are_current
from model_preserving_id.paper.tables import TABLES


def test_generated_pages_are_current():
    pages_are_current("model_preserving_id", TABLES)
