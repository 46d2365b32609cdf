"""The feed of changes: `client.feed`."""

from collections.abc import Iterator
from time import sleep
from typing import Final

from segmentd_client.calls import jobs as calls
from segmentd_client.core import Retries
from segmentd_client.errors import ClientError
from segmentd_client.jobs import Change, ChangesPage
from segmentd_client.synchronous.transport import LOG, Transport

HELD_S: Final = 30
"""How long the service holds an empty page back."""


class Feed:
    """Every committed change exactly once; those of one user in the order of their time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def page(
        self,
        after: str = "begin",
        *,
        limit: int | None = None,
        wait_s: int = 0,
        segment: str | None = None,
        user_id: int | None = None,
    ) -> ChangesPage:
        """Some changes after a position, `begin` or `now`. `wait_s` (60 at most) holds an empty page back.

        Raises PositionExpired.
        """
        return self._transport.send(calls.changes(after, limit, wait_s, segment, user_id))

    def follow(
        self, after: str = "now", *, segment: str | None = None, user_id: int | None = None
    ) -> Iterator[Change]:
        """Every change after a position as it comes, without end. Go on later from a change's `position`.

        While the service cannot be reached it tries again, at most half a minute apart, and goes on where it
        was. Raises what does not pass by itself, such as PositionExpired and Unauthenticated.
        """
        for page in self.pages(after, segment=segment, user_id=user_id):
            for change in page.changes:
                yield change

    def pages(
        self, after: str = "now", *, segment: str | None = None, user_id: int | None = None
    ) -> Iterator[ChangesPage]:
        """As `follow`, by pages, and an empty one where nothing comes for half a minute."""
        patient = Retries(first_s=0.5, longest_s=30)
        # The position of now is asked for at once: what comes while the first page is held back counts.
        held_s = 0 if after == "now" else HELD_S
        failures = 0
        while True:
            try:
                page = self.page(after, limit=1000, wait_s=held_s, segment=segment, user_id=user_id)
            except ClientError as error:
                if not patient.may_pass(error, can_repeat=True):
                    raise
                pause_s = patient.backed_off(failures, error) or patient.longest_wait_s
                LOG.warning("the feed goes on in %.1f s: %s", pause_s, error)
                sleep(pause_s)
                failures += 1
                continue
            failures, after, held_s = 0, page.next, HELD_S
            yield page
