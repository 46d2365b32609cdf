"""A circuit breaker: while the database answers nothing, nobody waits for it in vain."""

import asyncio
import math
from typing import Final

# Under load the waiting would pile up.
OPEN_S: Final = 1.0


class CircuitBreaker:
    """Opens for a second where a wait timed out, and nothing was answered for as long as a wait may take.

    The next answer closes it at once.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._open_until = 0.0
        self._answered_at = -math.inf

    def is_open(self) -> bool:
        """Whether a request is to be refused at once."""
        return _now() < self._open_until

    def note_answer(self) -> None:
        """The database is there, whatever it said."""
        self._answered_at = _now()
        self._open_until = 0.0

    def note_timeout(self) -> None:
        """A wait for a connection took as long as it may."""
        if self.silent_seconds() >= self._longest_wait_s:
            self._open_until = _now() + OPEN_S

    def silent_seconds(self) -> float:
        """For how long nothing was answered, be it by an error."""
        return _now() - self._answered_at


def _now() -> float:
    return asyncio.get_running_loop().time()
