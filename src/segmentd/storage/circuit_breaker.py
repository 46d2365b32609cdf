"""A circuit breaker: while the database answers nothing, statements fail at once."""

import asyncio
import math
from typing import Final

# For how long it stays open. Without it, waiting statements would pile up under load.
OPEN_S: Final = 1.0


class CircuitBreaker:
    """Opens for a second if a wait timed out and the database answered nothing for as long as that wait.

    The next answer closes it at once.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._open_until = 0.0
        self._answered_at = -math.inf

    def is_open(self) -> bool:
        """Whether a statement is to fail at once."""
        return _now() < self._open_until

    def note_answer(self) -> None:
        """The database answered, whatever the answer was."""
        self._answered_at = _now()
        self._open_until = 0.0

    def note_timeout(self) -> None:
        """A wait for a connection took as long as it may take."""
        if self.silent_seconds() >= self._longest_wait_s:
            self._open_until = _now() + OPEN_S

    def silent_seconds(self) -> float:
        """For how long the database has answered nothing; an error is an answer too."""
        return _now() - self._answered_at


def _now() -> float:
    return asyncio.get_running_loop().time()
