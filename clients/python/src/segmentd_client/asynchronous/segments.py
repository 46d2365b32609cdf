"""Segments: `client.segments`."""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from segmentd_client.asynchronous.transport import AsyncTransport
from segmentd_client.calls import segments as calls
from segmentd_client.calls.jobs import FileFormat
from segmentd_client.calls.segments import UNSET, Given, Percent
from segmentd_client.lines import Lines
from segmentd_client.models import Counts, Member, MemberPage, Preview, Segment, SegmentPage


class AsyncSegments:
    """Makes, reads and changes segments."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        slug: str,
        *,
        description: str | None = None,
        percent: Percent | None = None,
        salt: int | str | None = None,
    ) -> Segment:
        """Makes a segment; `percent` is from 0 to 100. Raises SegmentExists, Validation.

        `salt` is a signed 64-bit integer, random unless given; segments with one salt share their cohort.
        """
        return await self._transport.send(calls.create(slug, description, percent, salt))

    async def list(self, *, limit: int | None = None) -> AsyncIterator[Segment]:
        """All segments by slug, asked for in pages of up to `limit` (1,000 at most)."""
        cursor = None
        while True:
            page = await self.page(limit=limit, cursor=cursor)
            for each in page.segments:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def page(self, *, limit: int | None = None, cursor: str | None = None) -> SegmentPage:
        """One page of segments by slug."""
        return await self._transport.send(calls.page(limit, cursor))

    async def get(self, slug: str) -> Segment:
        """One segment. Raises SegmentNotFound."""
        return await self._transport.send(calls.get(slug))

    async def update(
        self,
        slug: str,
        *,
        new_slug: str | None = None,
        description: str | None = None,
        percent: Percent | Given | None = UNSET,
    ) -> Segment:
        """Renames, describes, or changes the percentage; what is not given stays. `percent` None ends it.

        Raises SegmentNotFound, SegmentExists, Validation.
        """
        return await self._transport.send(calls.update(slug, new_slug, description, percent))

    async def delete(self, slug: str) -> None:
        """Ends every membership in it at once, and keeps its history. Raises SegmentNotFound."""
        await self._transport.send(calls.delete(slug))

    async def members(
        self, slug: str, *, at: datetime | None = None, limit: int | None = None
    ) -> AsyncIterator[int]:
        """The ids of all users in it, now or at an instant, in their order; of those whom the service knows.

        Raises SegmentNotFound. For many users, `export` reads them in one stream and as of one instant.
        """
        cursor = None
        while True:
            page = await self.members_page(slug, at=at, limit=limit, cursor=cursor)
            for each in page.user_ids:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def members_page(
        self, slug: str, *, at: datetime | None = None, limit: int | None = None, cursor: str | None = None
    ) -> MemberPage:
        """One page of them; it may be short, even empty, with more to come."""
        return await self._transport.send(calls.members(slug, at, limit, cursor))

    async def counts(self, slug: str, *, at: datetime | None = None) -> Counts:
        """How many users are in it, now or at an instant. Raises SegmentNotFound."""
        return await self._transport.send(calls.counts(slug, at))

    async def preview(self, slug: str, percent: Percent | None) -> Preview:
        """What another percentage would change; changes nothing. Raises SegmentNotFound."""
        return await self._transport.send(calls.preview(slug, percent))

    async def export(self, slug: str, *, at: datetime | None = None) -> AsyncIterator[Member]:
        """Everybody in it as of one instant, as a stream in the order of the ids.

        Raises SegmentNotFound, TooManyExports; AnswerLost if the stream breaks off.
        """
        lines = Lines()
        decoder = msgspec.json.Decoder(Member)
        async with self._transport.stream(calls.export(slug, "ndjson", at, header=False)) as pieces:
            async for piece in pieces:
                for line in lines.of(piece):
                    yield decoder.decode(line)

    async def export_file(
        self,
        slug: str,
        *,
        format: FileFormat = "csv",  # noqa: A002 - the parameter's name
        at: datetime | None = None,
        header: bool = False,
    ) -> AsyncIterator[bytes]:
        """The same as the bytes of a file, in pieces. `header` is for csv alone."""
        async with self._transport.stream(calls.export(slug, format, at, header=header)) as pieces:
            async for piece in pieces:
                yield piece
