"""The one error that a command tells a person about."""


class CommandError(Exception):
    """The command cannot go on, and this is why.

    Args:
        message: What is wrong, as a sentence.
        hint: What to do about it; empty when the message says it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
