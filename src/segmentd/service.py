"""Every use case by name: what segmentd does, in the order of the contract."""

from collections.abc import Sequence
from datetime import datetime

from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Actor, Change, Changed, Event, Evidence, Membership, UserSegments
from segmentd.domain.pages import Page, decode_cursor, encode_cursor
from segmentd.domain.segments import NewSegment, Segment, SegmentUpdate
from segmentd.domain.users import User
from segmentd.storage import history, memberships, segments, users
from segmentd.storage.database import Database


class Service:
    """The use cases. All of them raise Unavailable when the database is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_ready(self) -> None:
        """Raises Unavailable, with the reason, when requests cannot be served."""
        await history.instant(self._database)

    # Segments

    async def create_segment(self, segment: NewSegment) -> Segment:
        """Makes a segment. Raises SegmentExists."""
        return await segments.create(self._database, segment)

    async def list_segments(self, limit: int, cursor: str | None) -> Page[Segment]:
        """A page of the living segments, by slug. Raises Invalid."""
        after = decode_cursor("segments", cursor, Slug)
        found = await segments.list_after(self._database, after, limit + 1)
        return Page[Segment].of(found, limit, lambda last: encode_cursor("segments", last.slug))

    async def get_segment(self, slug: Slug) -> Segment:
        """One living segment. Raises SegmentNotFound."""
        return await segments.get(self._database, slug)

    async def update_segment(self, slug: Slug, update: SegmentUpdate) -> Segment:
        """Renames, describes, changes or ends the percentage. Raises SegmentNotFound, SegmentExists."""
        return await segments.update(self._database, slug, update)

    async def delete_segment(self, slug: Slug) -> None:
        """Ends every membership in the segment at once, keeps its history. Raises SegmentNotFound."""
        await segments.delete(self._database, slug)

    async def list_members(self, slug: Slug, limit: int, cursor: str | None) -> Page[UserId]:
        """A page of a segment's users, of those whom the service knows. Raises SegmentNotFound, Invalid."""
        listing = f"members of {slug}"
        after = decode_cursor(listing, cursor, UserId)
        page = await memberships.members_after(self._database, slug, after, limit)
        return Page(page.user_ids, None if page.walked_to is None else encode_cursor(listing, page.walked_to))

    # Users

    async def register_user(self, user_id: UserId | None, name: str | None) -> User:
        """Registers a user; without an id, under a new one. Raises UserExists."""
        return await users.register(self._database, user_id, name)

    async def list_users(self, limit: int, cursor: str | None) -> Page[User]:
        """A page of the living users, by id. Raises Invalid."""
        after = decode_cursor("users", cursor, UserId)
        found = await users.list_after(self._database, after, limit + 1)
        return Page[User].of(found, limit, lambda last: encode_cursor("users", last.id))

    async def get_user(self, user_id: UserId) -> User:
        """One living user. Raises UserNotFound."""
        return await users.get(self._database, user_id)

    async def delete_user(self, user_id: UserId, actor: Actor) -> None:
        """Ends the user's memberships and exclusions, keeps the history. Raises UserNotFound."""
        await users.delete(self._database, user_id, actor)

    # A user's segments

    async def segments_of(self, user_ids: Sequence[UserId]) -> Sequence[UserSegments]:
        """What the users are in now, in the order asked."""
        return await memberships.segments_of(self._database, user_ids)

    async def segments_at(self, user_id: UserId, at: datetime | None) -> Sequence[Membership]:
        """What a user is or was in, with the why. Raises Invalid for a time in the future."""
        return await history.segments_at(self._database, user_id, at)

    async def change_memberships(self, user_id: UserId, change: Change, actor: Actor) -> Changed:
        """Adds and removes segments of one user, all or nothing. Raises Invalid, SegmentNotFound."""
        change.check()
        return await memberships.change(self._database, user_id, change, actor)

    async def explain(self, user_id: UserId, slug: Slug, at: datetime | None) -> Evidence:
        """Why a user is or was in a segment, or not. Raises SegmentNotFound, Invalid."""
        return await history.explain(self._database, user_id, slug, at)

    async def list_events(
        self, user_id: UserId, period: tuple[datetime | None, datetime | None], limit: int, cursor: str | None
    ) -> Page[Event]:
        """A page of the times that a user got in or out, oldest first. Raises Invalid."""
        listing = f"history of {user_id}"
        after = decode_cursor(listing, cursor, history.HistoryKey)
        found = await history.events_after(self._database, user_id, period, after, limit + 1)
        return Page[Event].of(
            found,
            limit,
            lambda last: encode_cursor(listing, history.HistoryKey(last.at, last.segment, last.segment_id)),
        )
