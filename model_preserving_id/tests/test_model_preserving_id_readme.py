"""Generated tables, here and in the root's README, are up to date with the result files."""

from common.testing import check_generated_docs
from model_preserving_id.paper.tables import TABLES


def test_generated_pages_are_current():
    check_generated_docs("model_preserving_id", TABLES)
