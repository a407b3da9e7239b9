"""The one exception for a user's mistake."""


class UserError(Exception):
    """A user's mistake: one line that says what is wrong and what to do. Commands print it and exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
