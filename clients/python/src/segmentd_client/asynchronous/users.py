"""Users and their segments: `client.users`."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from segmentd_client.asynchronous.transport import AsyncTransport
from segmentd_client.calls import users as calls
from segmentd_client.calls.users import Addition
from segmentd_client.models import (
    Changed,
    Event,
    Explanation,
    HistoryPage,
    Lookup,
    Membership,
    User,
    UserChange,
    UserPage,
    UserSegments,
)


class AsyncUsers:
    """Reads and changes users and the segments that they are in."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def register(self, user_id: int | None = None, *, name: str | None = None) -> User:
        """Registers a user; without an id the service assigns one. Raises UserExists.

        Nobody has to register a user first: the first change of their segments does it.
        """
        return await self._transport.send(calls.register(user_id, name))

    async def list(self, *, limit: int | None = None) -> AsyncIterator[User]:
        """All registered users by id, asked for in pages of up to `limit` (1,000 at most)."""
        cursor = None
        while True:
            page = await self.page(limit=limit, cursor=cursor)
            for each in page.users:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def page(self, *, limit: int | None = None, cursor: str | None = None) -> UserPage:
        """One page of users by id."""
        return await self._transport.send(calls.page(limit, cursor))

    async def get(self, user_id: int) -> User:
        """One registered user. Raises UserNotFound."""
        return await self._transport.send(calls.get(user_id))

    async def delete(self, user_id: int, *, erase: bool = False) -> None:
        """Ends the user's memberships and exclusions. Raises UserNotFound.

        With `erase` the history goes too, which needs the role admin.
        """
        await self._transport.send(calls.delete(user_id, erase=erase))

    async def segments(self, user_id: int, *, at: datetime | None = None) -> UserSegments:
        """The slugs of the segments that the user is in, now or at an instant.

        A user that the service has never heard of is no error: the percentages decide.
        """
        return await self._transport.send(calls.segments(user_id, at))

    async def memberships(self, user_id: int, *, at: datetime | None = None) -> Sequence[Membership]:
        """The same with the why, since when and until when."""
        return (await self._transport.send(calls.memberships(user_id, at))).segments

    async def lookup(self, user_ids: Sequence[int]) -> Lookup:
        """The segments of up to 1,000 users, in the order asked."""
        return await self._transport.send(calls.lookup(user_ids))

    async def change(
        self,
        user_id: int,
        *,
        add: Sequence[Addition] = (),
        remove: Sequence[str] = (),
        reason: str | None = None,
    ) -> Changed:
        """Adds and removes in one transaction. It states what shall be, so it can be called again.

        Raises SegmentNotFound with all unknown slugs, and Validation.
        """
        return await self._transport.send(calls.change(user_id, add, remove, reason))

    async def change_many(
        self, changes: Sequence[UserChange], *, reason: str | None = None
    ) -> Sequence[Changed]:
        """Changes up to 1,000 users in one transaction, all or nothing. Raises as `change`."""
        return (await self._transport.send(calls.change_many(changes, reason))).changes

    async def explain(self, user_id: int, slug: str, *, at: datetime | None = None) -> Explanation:
        """Whether the user is in the segment, and why. Raises SegmentNotFound."""
        return await self._transport.send(calls.explain(user_id, slug, at))

    async def history(
        self,
        user_id: int,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """Every time that the user got in or out from `begin` to before `end`, the newest last."""
        cursor = None
        while True:
            page = await self.history_page(user_id, begin=begin, end=end, limit=limit, cursor=cursor)
            for each in page.events:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def history_page(
        self,
        user_id: int,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> HistoryPage:
        """One page of it."""
        return await self._transport.send(calls.history(user_id, begin, end, limit, cursor))
