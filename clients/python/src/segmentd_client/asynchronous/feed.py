"""The feed of changes: `client.feed`."""

from collections.abc import AsyncIterator
from typing import Final

from anyio import sleep

from segmentd_client.asynchronous.transport import LOG, AsyncTransport
from segmentd_client.calls import jobs as calls
from segmentd_client.core import Retries
from segmentd_client.errors import ClientError
from segmentd_client.jobs import Change, ChangesPage

HELD_S: Final = 30
"""How long the service holds an empty page back."""


class AsyncFeed:
    """Every committed change exactly once; those of one user in the order of their time."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def page(
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
        return await self._transport.send(calls.changes(after, limit, wait_s, segment, user_id))

    async def follow(
        self, after: str = "now", *, segment: str | None = None, user_id: int | None = None
    ) -> AsyncIterator[Change]:
        """Every change after a position as it comes, without end. Go on later from a change's `position`.

        While the service cannot be reached it tries again, at most half a minute apart, and goes on where it
        was. Raises what does not pass by itself, such as PositionExpired and Unauthenticated.
        """
        async for page in self.pages(after, segment=segment, user_id=user_id):
            for change in page.changes:
                yield change

    async def pages(
        self, after: str = "now", *, segment: str | None = None, user_id: int | None = None
    ) -> AsyncIterator[ChangesPage]:
        """As `follow`, by pages, and an empty one where nothing comes for half a minute."""
        patient = Retries(first_s=0.5, longest_s=30)
        # The position of now is asked for at once: what comes while the first page is held back counts.
        held_s = 0 if after == "now" else HELD_S
        failures = 0
        while True:
            try:
                page = await self.page(after, limit=1000, wait_s=held_s, segment=segment, user_id=user_id)
            except ClientError as error:
                if not patient.may_pass(error, can_repeat=True):
                    raise
                pause_s = patient.backed_off(failures, error) or patient.longest_wait_s
                LOG.warning("the feed goes on in %.1f s: %s", pause_s, error)
                await sleep(pause_s)
                failures += 1
                continue
            failures, after, held_s = 0, page.next, HELD_S
            yield page
