"""What is generated is up to date: tables from the result files, here and in the root's README."""

from common.testing import check_generated_docs
from compare.paper.tables import TABLES, tried_rates
from compare.settings import usual_recipe


def test_generated_pages_are_current():
    check_generated_docs("compare", TABLES)


def test_digits_are_fine_tuned_by_the_rate_that_held_out_pictures_chose():
    means = {rate: tops["mean"] for rate, tops in tried_rates().items()}
    assert len(means) >= 3 and max(means, key=means.__getitem__) == usual_recipe("digits").learning_rate
