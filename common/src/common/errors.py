"""Exceptions for invalid input, and text that is safe to print."""

import re

# Terminals interpret them, or show the following text in another order; lone surrogates cannot be printed at all.
CONTROL_CHARACTERS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


class UserError(Exception):
    """Invalid input, described in one line with a remedy. Commands print the line and exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RunFolderError(UserError):
    """A run folder cannot be used as it is: it is in use, damaged, or has a run with other options."""


def one_line(text: object) -> str:
    """Return text in one line, without control characters."""
    return printable(" ".join(str(text).split()))


def printable(text: object) -> str:
    """Replace control characters, which may come from a file or a server, by escape sequences such as ``\\x1b``."""
    return CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], str(text))
