"""Every use case by name: what segmentd does, in the order of the contract."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec

from segmentd.background import background
from segmentd.changes.applying import Applying
from segmentd.changes.grouping import GroupedChanges, GroupLimits
from segmentd.domain.access import Actor
from segmentd.domain.audit import AUDIT_KEYS, AuditEntry
from segmentd.domain.counts import Counts, Preview
from segmentd.domain.decisions import Decision, Decisions
from segmentd.domain.errors import (
    SegmentNotFound,
    Unavailable,
)
from segmentd.domain.history import EventPage
from segmentd.domain.identifiers import Slug, SlugPart, UserId
from segmentd.domain.instants import Span
from segmentd.domain.memberships import (
    Change,
    Changed,
    Evidence,
    Membership,
    UserChange,
    check_together,
)
from segmentd.domain.pages import SLUG_KEYS, USER_KEYS, Limit, Listing, Page
from segmentd.domain.segments import NOTHING_SEEN, NewSegment, Percent, Segment, SegmentUpdate
from segmentd.domain.texts import Name
from segmentd.domain.users import User
from segmentd.exports import Exports
from segmentd.feed.following import Feed
from segmentd.imports.desk import ImportDesk
from segmentd.observability.metrics import Metrics
from segmentd.replica.node import Answer, Node, Replicated, Slugs, Stored
from segmentd.replica.replica import Replica, ReplicaMeasures
from segmentd.replica.watching import Watcher
from segmentd.reports.desk import ReportDesk
from segmentd.storage import (
    audit_log,
    history,
    measures,
    members,
    memberships,
    segments,
    users,
)
from segmentd.storage.changes import CHANGE, Wanted
from segmentd.storage.database import Database
from segmentd.storage.long_reads import LongReads
from segmentd.storage.lookout import Lookout
from segmentd.storage.replication import OwnWrite

Found = TypeVar("Found")

# Changes of many users that a process makes at once: each takes up to a second of its connection.
CHANGES_OF_MANY_AT_ONCE: Final = 2


class Measured(NamedTuple):
    """Figures that are measured only when they are asked for."""

    database: measures.Measures | None
    """None if the database did not answer in time."""
    replica: ReplicaMeasures | None
    """None if this process has no replica."""
    report_bytes_limit: int
    """The limit for the files of all reports; 0 is no limit."""
    import_bytes_limit: int
    """The limit for what all imports store; 0 is no limit."""
    has_database: bool = True
    """Whether this node has one, be it away or not."""


class Service:
    """The use cases. Each raises Unavailable if it needs the database and cannot reach it."""

    def __init__(
        self,
        database: Database,
        reports: ReportDesk,
        imports: ImportDesk,
        exports: Exports,
        feed: Feed,
        node: Node | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.reports = reports
        self.imports = imports
        self.exports = exports
        self.feed = feed
        self._database = database
        self._node = node
        self._metrics = metrics or Metrics()
        self._applying = Applying(database, node, self._metrics)
        self._together = asyncio.Semaphore(CHANGES_OF_MANY_AT_ONCE)
        self._changes = GroupedChanges(
            self._applying,
            GroupLimits(seconds=database.longest_wait_s),
            database.note_timeout,
        )
        self._long_reads = LongReads(database, self._metrics)
        self._leaving = False
        self._lookout = Lookout(database)

    def leave(self) -> None:
        """Before a stop: from now on the service is not ready, and no request waits for a job."""
        self._leaving = True
        self.reports.end_waiting()
        self.imports.end_waiting()
        self.feed.end_waiting()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watches the database while the context lives, so that `check_ready` does not wait for it."""
        if not self._has_database:
            yield
            return
        node, lookout = self._node, self._lookout
        watch = lookout.watch() if node is None else lookout.watch(node.note_database)
        async with (
            background(watch, "look whether the database answers"),
            background(self.reports.keys.watch(), "look for signing keys"),
        ):
            yield

    async def check_ready(self) -> None:
        """Raises Unavailable, with the reason, if the database does not answer or a stop is near."""
        age = self._age_of_hot_reads()
        if self._has_database:
            reason = await self._lookout.reason()
        else:
            reason = (
                None if age is not None else "The neighbour is away, and the replica is too old or missing."
            )
        if self._leaving or reason is not None:
            raise Unavailable(
                "The service is about to stop." if self._leaving else reason,
                hot_reads=reason is None or age is not None,
                age=age,
            )

    async def check_hot_reads(self) -> None:
        """Raises Unavailable if neither replica nor database can answer a hot read, or a stop is near."""
        if self._leaving or self._age_of_hot_reads() is None:
            await self.check_ready()

    @property
    def _has_database(self) -> bool:
        return self._node is None or not self._node.follows

    def _age_of_hot_reads(self) -> int | None:
        return None if self._node is None else self._node.age_of_reads()

    async def measure(self) -> Measured:
        """The figures of the database and of this node's replica. Takes about a second even in an outage."""
        found = None
        if self._has_database:
            with suppress(Unavailable):
                found = await measures.measure(self._database)
        replica = None if self._node is None else self._node.replica.measure()
        limits = self.reports.store_bytes, self.imports.store_bytes
        return Measured(found, replica, *limits, self._has_database)

    # Segments

    async def create_segment(self, segment: NewSegment, actor: Actor) -> Segment:
        """Makes a segment. Raises SegmentExists."""
        created = await segments.create(self._database, segment, actor)
        await self._show_segments()
        return created

    async def list_segments(
        self, limit: Limit, cursor: str | None, part: SlugPart | None = None
    ) -> Page[Segment]:
        """A page of the living segments, by slug; only those with the part in their slugs, if it is given.

        Raises Invalid.
        """
        listed = (
            partial(segments.list_after, self._database)
            if part is None
            else partial(segments.list_with_part, self._database, part)
        )
        return await Listing("segments", SLUG_KEYS).page(listed, lambda last: last.slug, limit, cursor)

    async def get_segment(self, slug: Slug) -> Segment:
        """One living segment. Raises SegmentNotFound."""
        return await segments.get(self._database, slug)

    async def update_segment(
        self, slug: Slug, update: SegmentUpdate, actor: Actor, seen: SegmentUpdate = NOTHING_SEEN
    ) -> Segment:
        """Changes slug, description or percentage, or ends it, and returns the segment as it is then.

        If it no longer has the values that were seen, nothing is changed. Raises SegmentNotFound,
        SegmentExists.
        """
        updated = await segments.update(self._database, slug, update, actor, seen)
        await self._show_segments()
        return updated

    async def delete_segment(self, slug: Slug, actor: Actor) -> None:
        """Ends every membership in the segment at once, keeps its history. Raises SegmentNotFound."""
        await segments.delete(self._database, slug, actor)
        await self._show_segments()

    async def list_members(
        self, slug: Slug, at: datetime | None, limit: Limit, cursor: str | None
    ) -> Page[UserId]:
        """A page of the known users that are in the segment, or were at a time, by id.

        Raises SegmentNotFound, Invalid.
        """
        name = f"members of {slug}" if at is None else f"members of {slug} at {at.isoformat()}"
        listing: Listing[UserId] = Listing(name, USER_KEYS)
        page = await members.members_after(self._database, slug, at, listing.key_in(cursor), limit)
        return Page(page.user_ids, None if page.walked_to is None else listing.cursor_after(page.walked_to))

    async def count_members(self, slug: Slug, at: datetime | None) -> Counts:
        """How many users are in a segment, or were at a time. Raises SegmentNotFound, Invalid, Overloaded."""
        async with self._long_reads.moment() as moment:
            return await members.count(moment, slug, at)

    async def preview_percent(self, slug: Slug, percent: Percent | None) -> Preview:
        """What that percentage would change now. Raises SegmentNotFound, Overloaded."""
        async with self._long_reads.moment() as moment:
            return await members.preview(moment, slug, percent)

    # Users

    async def register_user(self, user_id: UserId | None, name: Name | None) -> User:
        """Registers a user; without an id, under a new one. Raises UserExists."""
        return await users.register(self._database, user_id, name)

    async def list_users(self, limit: Limit, cursor: str | None) -> Page[User]:
        """A page of the living users, by id. Raises Invalid."""
        listed = partial(users.list_after, self._database)
        return await Listing("users", USER_KEYS).page(listed, lambda last: last.id, limit, cursor)

    async def get_user(self, user_id: UserId) -> User:
        """One living user. Raises UserNotFound."""
        return await users.get(self._database, user_id)

    async def delete_user(self, user_id: UserId, actor: Actor) -> None:
        """Ends the user's memberships and exclusions, keeps the history. Raises UserNotFound."""
        self._show_user(user_id, await users.delete(self._database, user_id, actor))

    async def erase_user(self, user_id: UserId, actor: Actor) -> None:
        """Removes everything that is known of a user, the history included. Raises UserNotFound."""
        self._show_user(user_id, await users.erase(self._database, user_id, actor))

    # A user's segments

    async def segments_of(self, user_id: UserId) -> Answer[Sequence[Slug]]:
        """The segments that a user is in now."""
        age, [found] = await self._look_up([user_id], partial(memberships.slugs_of, self._database))
        return Answer(age, [Slug(slug) for slug in msgspec.json.decode(b"[%b]" % found, type=list[str])])

    async def look_up(self, user_ids: Sequence[UserId]) -> Answer[Sequence[bytes]]:
        """The segments of many users, in the order asked: for each the slugs as JSON strings, with commas.

        Raises AnswerTooLarge.
        """
        return await self._look_up(user_ids, partial(memberships.look_up, self._database))

    async def _look_up(self, user_ids: Sequence[UserId], stored: Stored) -> Answer[Slugs]:
        if self._node is None:
            return Answer(0, await stored(user_ids))
        return await self._node.look_up(user_ids, stored)

    async def decide(self, user_id: UserId, slug: Slug) -> Answer[Decision]:
        """What decides about a user and one segment now. Raises SegmentNotFound."""

        async def replicated(replica: Replica, older: int | None) -> Decision | None:
            return replica.decision(slug.encode(), user_id, older)

        async def stored() -> Decision | None:
            return await memberships.decision(self._database, slug, user_id)

        age, decision = await self._read(replicated, stored)
        if decision is None:
            raise SegmentNotFound([slug])
        return Answer(age, decision)

    async def decide_all(self, user_id: UserId) -> Answer[Decisions]:
        """What decides about a user and each living segment now."""

        async def replicated(replica: Replica, older: int | None) -> Decisions:
            return replica.decisions(user_id, older)

        async def stored() -> Decisions:
            return await memberships.decisions(self._database, user_id)

        return await self._read(replicated, stored)

    def watch(self, user_id: UserId) -> AbstractContextManager[Watcher]:
        """Watches what decides about a user. Entering it raises Overloaded, Unavailable."""
        if self._node is None:
            raise Unavailable
        return self._node.watchers.watch(user_id)

    def end_watching(self) -> None:
        """At a stop: ends all that watch."""
        if self._node is not None:
            self._node.watchers.end()

    async def _read(
        self, replicated: Replicated[Found], stored: Callable[[], Awaitable[Found]]
    ) -> Answer[Found]:
        return Answer(0, await stored()) if self._node is None else await self._node.read(replicated, stored)

    async def segments_at(self, user_id: UserId, at: datetime | None) -> Sequence[Membership]:
        """The segments of a user at a time, each with its source. Raises Invalid for a time in the future."""
        return await history.segments_at(self._database, user_id, at)

    async def change_memberships(self, user_id: UserId, change: Change, actor: Actor) -> Changed:
        """Adds and removes segments of one user, all or nothing. Raises Invalid, SegmentNotFound."""
        change.check()
        self._database.check()
        with self._database.span(CHANGE):
            return await self._changes.change(Wanted(user_id, change, actor))

    def begin_change(
        self, user_id: UserId, change: Change, actor: Actor
    ) -> asyncio.Future[Changed | Exception]:
        """As `change_memberships`, for a caller without a task; cancel what is not wanted any more.

        Raises Invalid, Overloaded, Unavailable; the future has these and others as its result.
        """
        change.check()
        self._database.check()
        return self._changes.begin(Wanted(user_id, change, actor))

    async def change_many(self, changes: Sequence[UserChange], actor: Actor) -> Sequence[Changed]:
        """Changes different users in one transaction, all or nothing. Raises Invalid, SegmentNotFound."""
        check_together(changes)
        wanted = [
            Wanted(user_id, change, actor, UserChange.pointer(index))
            for index, (user_id, change) in enumerate(changes)
        ]
        async with self._together:
            return await self._applying.together(wanted)

    async def explain(self, user_id: UserId, slug: Slug, at: datetime | None) -> Evidence:
        """Why a user is or was in a segment, or not. Raises SegmentNotFound, Invalid."""
        return await history.explain(self._database, user_id, slug, at)

    async def explain_all(
        self, user_id: UserId, slugs: Sequence[Slug], at: datetime | None
    ) -> Mapping[Slug, Evidence]:
        """Why a user is or was in several segments, or not; without those that there were not.

        Raises Invalid.
        """
        return await history.explain_all(self._database, user_id, slugs, at)

    async def present(self) -> datetime:
        """The time now, by the clock that writes the history."""
        return await history.instant(self._database)

    async def list_events(self, user_id: UserId, period: Span, limit: Limit, cursor: str | None) -> EventPage:
        """A page of the times that a user got in or out, oldest first. Raises Invalid, Gone."""
        return await self._list_events(
            f"history of {user_id}", history.events_after, user_id, period, limit, cursor
        )

    async def list_latest_events(
        self, user_id: UserId, period: Span, limit: Limit, cursor: str | None
    ) -> EventPage:
        """As `list_events`, newest first. Raises Invalid, Gone."""
        return await self._list_events(
            f"latest of {user_id}", history.events_before, user_id, period, limit, cursor
        )

    async def _list_events(
        self,
        name: str,
        read: history.ReadEvents,
        user_id: UserId,
        period: Span,
        limit: Limit,
        cursor: str | None,
    ) -> EventPage:
        period.check()
        listing: Listing[history.HistoryKey] = Listing(name, history.HISTORY_KEYS)
        listing.key_in(cursor)  # a bad one is refused before the database is asked
        moment = await history.moment_of(self._database, user_id)
        page = await listing.page(
            partial(read, self._database, user_id, moment, period), history.HistoryKey.of, limit, cursor
        )
        return EventPage(page.items, page.next_cursor, moment.begins_at)

    async def history_begins_at(self) -> datetime | None:
        """The beginning of the history; None: all of it is kept."""
        return await history.begins_at(self._database)

    # Who changed what

    async def list_audit_log(self, limit: Limit, cursor: str | None) -> Page[AuditEntry]:
        """A page of the audit log, the newest entries first. Raises Invalid."""
        listed = partial(audit_log.list_before, self._database)
        return await Listing("audit log", AUDIT_KEYS).page(listed, lambda last: last.id, limit, cursor)

    # Own writes

    def _show_user(self, user_id: UserId, write: OwnWrite) -> None:
        if self._node is not None:
            self._node.show_users([(user_id, write)])

    async def _show_segments(self) -> None:
        if self._node is not None:
            await self._node.show_segments(self._database)
