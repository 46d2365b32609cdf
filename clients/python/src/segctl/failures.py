"""How a command ends that does not succeed."""

from typing import Final

FAILURE: Final = 1
WRONG_USE: Final = 2
DIFFERENCES: Final = 3
"""A dry run found differences."""


class CommandFailed(Exception):
    """One line on standard error, and this exit code."""

    def __init__(self, line: str, code: int = FAILURE) -> None:
        self.code: Final = code
        super().__init__(line)


class WrongUse(CommandFailed):
    """What was asked for makes no sense."""

    def __init__(self, line: str) -> None:
        super().__init__(line, WRONG_USE)
