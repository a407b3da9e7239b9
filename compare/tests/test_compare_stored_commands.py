"""Commands stored in the result files."""

from common.testing import check_stored_commands


def test_stored_commands_are_valid():
    assert check_stored_commands("compare") >= 204
