"""Changes of many users' segments in one call (functions/07_memberships.sql, change_memberships)."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, LiteralString

import msgspec
import psycopg
import structlog

from segmentd.domain.access import Actor
from segmentd.domain.errors import Fault, Invalid, SegmentdError, SegmentNotFound
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Change
from segmentd.storage import arrays
from segmentd.storage.database import Database
from segmentd.storage.replication import OwnWrite

_log = structlog.get_logger(__name__)


class Wanted(msgspec.Struct, frozen=True):
    """A change of one user, and who asks for it."""

    user_id: UserId
    change: Change
    actor: Actor
    pointer: str = ""
    """Where the change stands in its request, for errors: `/changes/3`."""


class Outcome(StrEnum):
    """What the change of one segment did, or why nothing of the user was changed."""

    ADDED = "added"
    REMOVED = "removed"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    NO_SUCH_SEGMENT = "no-such-segment"
    TERM_OUT_OF_RANGE = "term-out-of-range"
    USER_IS_LOCKED = "user-is-locked"


_MADE: Final = (Outcome.ADDED, Outcome.REMOVED, Outcome.UPDATED, Outcome.UNCHANGED)


class Applied(msgspec.Struct, frozen=True):
    """A change that was made. Slugs are sorted bytewise."""

    user_id: UserId
    at: datetime
    """The time of the change."""
    added: Sequence[Slug]
    removed: Sequence[Slug]
    updated: Sequence[Slug]
    unchanged: Sequence[Slug]
    write: OwnWrite
    segments: Sequence[Slug] | None
    """What the user is in now; None if the caller knew the segments, so that the state shows it."""


class Locked(msgspec.Struct, frozen=True):
    """A change that was left out, because another transaction holds the user: it has to be made alone."""

    user_id: UserId


Result = Applied | Locked | SegmentdError


async def change_together(
    database: Database, wanted: Sequence[Wanted], known: int | None = None
) -> Sequence[Applied]:
    """Makes all changes or none, in one transaction; waits for users whom another transaction holds.

    The users are different; `known` is the version of the catalog that the caller has. Raises SegmentNotFound
    with every unknown slug, Invalid for terms that are not ahead, Unavailable.
    """
    try:
        [row] = await database.all(_Row, CHANGE, _parameters(wanted, known, together=True))
    except psycopg.DatabaseError as error:
        raise _refusal(error, wanted) from None
    return [result for result in _results(wanted, row) if isinstance(result, Applied)]


async def change_each(
    database: Database, wanted: Sequence[Wanted], known: int | None = None
) -> Sequence[Result]:
    """Makes each change that can be made, in one transaction; the others have an error or are Locked.

    As above; but where PostgreSQL undid them all, all are Locked. Raises Unavailable.
    """
    try:
        [row] = await database.once(_Row, CHANGE, _parameters(wanted, known, together=False))
    except psycopg.DatabaseError as error:
        _log.info("changes were undone, trying each alone", error=type(error).__name__)
        return [Locked(one.user_id) for one in wanted]
    return _results(wanted, row)


def _results(wanted: Sequence[Wanted], row: "_Row") -> Sequence[Result]:
    outcomes = iter(row.outcomes)
    results: dict[UserId, Result] = {}
    segments = row.segments or [None] * len(wanted)
    for one, at, state, slugs in zip(_ordered(wanted), row.ats, row.states, segments, strict=True):
        by_outcome: dict[Outcome, list[Slug]] = {}
        for slug in one.change.slugs():
            by_outcome.setdefault(next(outcomes), []).append(slug)
        shown = None if row.segments is None else [*map(Slug, slugs.split(","))] if slugs else []
        write = None if state is None else OwnWrite(state, row.xid, row.catalog_version)
        results[one.user_id] = _result(one, by_outcome, at, write, shown)
    return [results[one.user_id] for one in wanted]


def _ordered(wanted: Sequence[Wanted]) -> Sequence[Wanted]:
    """As the SQL function wants the users."""
    return sorted(wanted, key=lambda one: one.user_id)


CHANGE: Final[LiteralString] = (
    "SELECT c.*, CASE WHEN c.catalog_version IS DISTINCT FROM %(known)s::bigint"
    "  THEN segments_after_changes(%(user_ids)s::bigint[], c.ats) END AS segments"
    " FROM change_memberships("
    "  %(user_ids)s::bigint[], %(actors)s::text[], %(reasons)s::text[], %(on_behalf_of)s::text[],"
    "  %(places)s::integer[], %(slugs)s::text[], %(adds)s::boolean[], %(untils)s::timestamptz[],"
    "  %(ttls)s::bigint[], %(together)s) c"
)


def _parameters(wanted: Sequence[Wanted], known: int | None, *, together: bool) -> Mapping[str, object]:
    wanted = _ordered(wanted)
    places: list[int] = []
    slugs: list[Slug] = []
    adds: list[bool] = []
    untils: list[datetime | None] = []
    ttls: list[int | None] = []
    for place, one in enumerate(wanted, start=1):
        added, removed = len(one.change.add), len(one.change.remove)
        places += [place] * (added + removed)
        slugs += one.change.slugs()
        adds += [True] * added + [False] * removed
        untils += [*(addition.until for addition in one.change.add), *[None] * removed]
        ttls += [*(addition.ttl_seconds for addition in one.change.add), *[None] * removed]
    return {
        "user_ids": arrays.numbers(one.user_id for one in wanted),
        "actors": arrays.texts(one.actor.name for one in wanted),
        "reasons": arrays.texts(one.change.reason for one in wanted),
        "on_behalf_of": arrays.texts(one.actor.on_behalf_of for one in wanted),
        "places": arrays.numbers(places),
        "slugs": arrays.texts(slugs),
        "adds": arrays.flags(adds),
        "untils": arrays.instants(untils),
        "ttls": arrays.numbers(ttls),
        "together": together,
        "known": known,
    }


class _Row(msgspec.Struct, frozen=True):
    outcomes: Sequence[Outcome]
    ats: Sequence[datetime | None]
    states: Sequence[bytes | None]
    xid: int
    catalog_version: int
    segments: Sequence[str | None] | None


def _result(
    one: Wanted,
    by_outcome: Mapping[Outcome, Sequence[Slug]],
    at: datetime | None,
    write: OwnWrite | None,
    segments: Sequence[Slug] | None,
) -> Result:
    if unknown := by_outcome.get(Outcome.NO_SUCH_SEGMENT):
        return SegmentNotFound(sorted(unknown))
    if out_of_range := by_outcome.get(Outcome.TERM_OUT_OF_RANGE):
        return Invalid(*_term_faults(one, out_of_range))
    if at is None or write is None:
        return Locked(one.user_id)
    added, removed, updated, unchanged = (sorted(by_outcome.get(each, ())) for each in _MADE)
    return Applied(one.user_id, at, added, removed, updated, unchanged, write, segments)


def _refusal(error: psycopg.DatabaseError, wanted: Sequence[Wanted]) -> Exception:
    """The domain's error for what change_memberships refused; any other error as it is."""
    detail = error.diag.message_detail
    if detail is None or error.sqlstate not in {"SG404", "SG422"}:
        return error
    ordered = _ordered(wanted)
    refused = msgspec.json.decode(detail, type=list[tuple[int, Slug]])
    if error.sqlstate == "SG404":
        return SegmentNotFound(sorted({slug for _, slug in refused}))
    return Invalid(*(fault for place, slug in refused for fault in _term_faults(ordered[place - 1], [slug])))


def _term_faults(one: Wanted, slugs: Sequence[Slug]) -> Iterator[Fault]:
    for index, addition in enumerate(one.change.add):
        if addition.slug in slugs:
            term = "until" if addition.until is not None else "ttl_seconds"
            yield Fault(
                f"{one.pointer}/add/{index}/{term}", "the term must end in the future, before the year 10000"
            )
