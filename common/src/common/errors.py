"""Exception for invalid input."""


class UserError(Exception):
    """Invalid input, described in one line with a remedy. Commands print the line and exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
