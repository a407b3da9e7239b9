"""Commands stored in result files are accepted by the current parsers."""

from common.testing import check_stored_commands


def test_stored_commands_are_valid():
    assert check_stored_commands("redundancy_graph") >= 2
