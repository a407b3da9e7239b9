"""Commands stored in result files are valid."""

from common.testing import check_stored_commands


def test_stored_commands_are_valid():
    assert check_stored_commands("deep_compression") >= 14
