"""Generated tables are up to date in this README and in the root README."""

from common.testing import check_generated_docs
from deep_compression.paper.tables import TABLES


def test_generated_docs_are_current():
    check_generated_docs("deep_compression", TABLES)
