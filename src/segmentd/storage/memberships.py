"""Changes of one user's segments, and who is in which segments (functions/07_memberships.sql)."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import psycopg

from segmentd.domain.access import Actor
from segmentd.domain.decisions import Decision, Decisions
from segmentd.domain.errors import AnswerTooLarge, Fault, Invalid, SegmentNotFound
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import LARGEST_LOOKUP_BYTES, Change, Changed, UserSegments
from segmentd.storage.database import Database
from segmentd.storage.replication import WRITTEN, OwnWrite


async def change(
    database: Database, user_id: UserId, change: Change, actor: Actor
) -> tuple[Changed, OwnWrite]:
    """Adds and removes segments of one user, all or nothing; returns also what the replica is to show.

    Raises SegmentNotFound with every unknown slug, Invalid for a term that is not ahead, Unavailable.
    """
    try:
        [row] = await database.all(
            _ChangedRow,
            f"SELECT segments, added, removed, updated, unchanged, state, {WRITTEN} FROM change_memberships("
            "  %(user_id)s, %(slugs)s::text[], %(adds)s::boolean[],"
            "  %(untils)s::timestamptz[], %(ttls)s::bigint[], %(actor)s, %(reason)s, %(on_behalf_of)s)",
            {
                "user_id": user_id,
                "slugs": change.slugs(),
                "adds": [True] * len(change.add) + [False] * len(change.remove),
                "untils": [addition.until for addition in change.add] + [None] * len(change.remove),
                "ttls": [addition.ttl_seconds for addition in change.add] + [None] * len(change.remove),
                "actor": actor.name,
                "reason": change.reason,
                "on_behalf_of": actor.on_behalf_of,
            },
        )
    except psycopg.DatabaseError as error:
        raise _refusal(error, change) from None
    changed = Changed(user_id, row.segments, row.added, row.removed, row.updated, row.unchanged)
    return changed, OwnWrite(row.state, row.xid, row.catalog_version)


async def segments_of(database: Database, user_ids: Sequence[UserId]) -> Sequence[UserSegments]:
    """Which segments each user is in now, in the order asked, repetitions included. Raises Unavailable."""
    rows = await database.all(
        UserSegments,
        'SELECT user_id, array_agg(slug ORDER BY slug COLLATE "C") AS segments'
        " FROM current_segments(%s, reading_instant()) GROUP BY user_id",
        [[*dict.fromkeys(user_ids)]],
    )
    found = {row.user_id: row for row in rows}
    return [found.get(user_id, UserSegments(user_id, [])) for user_id in user_ids]


async def decisions(database: Database, user_id: UserId) -> Decisions:
    """What decides about the user and each living segment now. Raises Unavailable."""
    rows = await database.all(
        _DecidedRow,
        'SELECT slug, decision FROM current_decisions(%s, reading_instant()) ORDER BY slug COLLATE "C"',
        [user_id],
    )
    codes = np.array([row.decision for row in rows], dtype=np.uint8)
    return Decisions([f'"{row.slug}"'.encode() for row in rows], codes)


async def decision(database: Database, slug: Slug, user_id: UserId) -> Decision | None:
    """What decides about the user and one living segment now; None if there is none. Raises Unavailable."""
    row = await database.one(
        _DecidedRow,
        "SELECT s.slug, decided("
        "  override_at(%(user_id)s, s.id, reading_instant()), s.threshold, %(user_id)s, s.salt) AS decision"
        " FROM living_segment(%(slug)s) s",
        {"user_id": user_id, "slug": slug},
    )
    return None if row is None else Decision(row.decision)


async def look_up(database: Database, user_ids: Sequence[UserId]) -> Sequence[bytes]:
    """For each user, in the order asked, the slugs as JSON strings, with commas between.

    Raises Unavailable, AnswerTooLarge; the latter before it fetches any slugs, unless only repetitions of
    users make the answer too large.
    """
    asked = [*dict.fromkeys(user_ids)]
    size = await database.one(
        _Size,
        "SELECT lookup_bytes(%s, reading_instant(), %s) AS bytes",
        [asked, LARGEST_LOOKUP_BYTES],
    )
    if size is None or size.bytes > LARGEST_LOOKUP_BYTES:
        raise AnswerTooLarge(LARGEST_LOOKUP_BYTES)
    rows = await database.all(
        _Slugs,
        "SELECT user_id, string_agg('\"' || slug || '\"', ',' ORDER BY slug COLLATE \"C\") AS slugs"
        " FROM current_segments(%s, reading_instant()) GROUP BY user_id",
        [asked],
    )
    found = {row.user_id: row.slugs.encode() for row in rows}
    if sum(len(found.get(user_id, b"")) for user_id in user_ids) > LARGEST_LOOKUP_BYTES:
        raise AnswerTooLarge(LARGEST_LOOKUP_BYTES)
    return [found.get(user_id, b"") for user_id in user_ids]


class _ChangedRow(msgspec.Struct, frozen=True):
    segments: Sequence[Slug]
    added: Sequence[Slug]
    removed: Sequence[Slug]
    updated: Sequence[Slug]
    unchanged: Sequence[Slug]
    state: bytes
    xid: int
    catalog_version: int


def _refusal(error: psycopg.DatabaseError, change: Change) -> Exception:
    """The domain's error for what change_memberships refused; any other error as it is."""
    detail = error.diag.message_detail
    if detail is None or error.sqlstate not in {"SG404", "SG422"}:
        return error
    slugs = msgspec.json.decode(detail, type=list[Slug])
    if error.sqlstate == "SG404":
        return SegmentNotFound(slugs)
    terms: Mapping[Slug, str] = {
        addition.slug: f"/add/{index}/{'until' if addition.until is not None else 'ttl_seconds'}"
        for index, addition in enumerate(change.add)
    }
    return Invalid(
        *(Fault(terms[slug], "the term must end in the future, before the year 10000") for slug in slugs)
    )


class _DecidedRow(msgspec.Struct, frozen=True):
    slug: Slug
    decision: int


class _Size(msgspec.Struct, frozen=True):
    bytes: int


class _Slugs(msgspec.Struct, frozen=True):
    user_id: UserId
    slugs: str
