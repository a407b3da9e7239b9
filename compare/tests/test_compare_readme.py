"""Generated tables are up to date, in this README and in the root README."""

from common.testing import check_generated_docs
from compare.paper.tables import TABLES, learning_rate_top1
from compare.settings import finetune_defaults


def test_generated_tables_are_current():
    check_generated_docs("compare", TABLES)


def test_digits_learning_rate_default_is_best_on_held_out_images():
    means = {rate: tops["mean"] for rate, tops in learning_rate_top1().items()}
    assert len(means) >= 3 and max(means, key=means.__getitem__) == finetune_defaults("digits").learning_rate
