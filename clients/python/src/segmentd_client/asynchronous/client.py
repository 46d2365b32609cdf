"""The client."""

from collections.abc import AsyncIterator
from typing import Final, Self

import httpx2

from segmentd_client.asynchronous.feed import AsyncFeed
from segmentd_client.asynchronous.imports import AsyncImports
from segmentd_client.asynchronous.local import AsyncLocal
from segmentd_client.asynchronous.reports import AsyncReports
from segmentd_client.asynchronous.segments import AsyncSegments
from segmentd_client.asynchronous.transport import AsyncTransport
from segmentd_client.asynchronous.users import AsyncUsers
from segmentd_client.calls import flags, jobs, users
from segmentd_client.calls.flags import Flag, Flags
from segmentd_client.core import Retries
from segmentd_client.models import AuditEntry
from segmentd_client.options import DEFAULT_SERVER, Options, Token


class AsyncClient:
    """Every call of a segmentd service. It keeps connections open; close it, or use it in a `with` block.

    `timeout_s` is for how many seconds nothing may come from the service, and `connect_s` for how many a
    connection may take, before a call fails. `retries` says what is sent again and when. `transport` is one
    of httpx2, for a proxy, for TLS of one's own, or for tests. Raises ValueError for an unusable address.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        token: Token | None = None,
        timeout_s: float = 30,
        connect_s: float = 5,
        retries: Retries = Retries(),  # noqa: B008 - it is frozen
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._transport = AsyncTransport(Options(server, token, timeout_s, connect_s, retries), transport)
        self.segments: Final = AsyncSegments(self._transport)
        self.users: Final = AsyncUsers(self._transport)
        self.imports: Final = AsyncImports(self._transport)
        self.reports: Final = AsyncReports(self._transport)
        self.feed: Final = AsyncFeed(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._transport.aclose()

    async def check_ready(self) -> None:
        """Whether the service can serve. Raises Unavailable with the reason, or NotSent."""
        await self._transport.send(jobs.ready())

    async def audit(self, *, limit: int | None = None) -> AsyncIterator[AuditEntry]:
        """The audit log, the newest operation first. Raises Forbidden for any role but admin."""
        cursor = None
        while True:
            page = await self._transport.send(users.audit(limit, cursor))
            for each in page.entries:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def flag(self, slug: str, user_id: int) -> Flag:
        """Whether a user is in a segment, as OpenFeature says it. Raises a Problem with the status 404."""
        return await self._transport.send(flags.evaluate(slug, user_id))

    async def flags(self, user_id: int, *, etag: str | None = None) -> Flags | None:
        """All segments as flags; None if they are what they were under `etag`."""
        return await self._transport.send(flags.evaluate_all(user_id, etag))

    def local(self, *, max_age_s: float = 300, most_users: int = 100_000) -> AsyncLocal:
        """Answers in this process: percentages are computed, members by hand asked for once and kept level.

        Use it in a `with` block: it reads all segments at its beginning, and follows the feed until its end.
        While the service cannot be reached it answers from its copy for up to `max_age_s` seconds. It keeps
        the segments of up to `most_users` users, those who were asked for last. A term's end reaches it when
        the feed tells it, up to some ten seconds late.
        """
        return AsyncLocal(self.segments, self.users, self.feed, max_age_s=max_age_s, most_users=most_users)
