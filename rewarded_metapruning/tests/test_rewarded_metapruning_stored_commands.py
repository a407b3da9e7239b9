"""Commands in the result files are valid."""

from common.testing import check_stored_commands


def test_stored_commands_are_valid():
    assert check_stored_commands("rewarded_metapruning") >= 3
