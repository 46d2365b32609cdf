"""Changes of one user's segments, and who is in which segments (functions/07_memberships.sql)."""

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

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

# How many candidates one page of a segment's users looks at: a page's cost is bounded, also where a small
# percentage covers few of them.
SCANNED_USERS: Final = 10_000


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
        "SELECT slug, decision FROM current_decisions(%s, reading_instant()) WHERE slug = %s",
        [user_id, slug],
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


class MembersPage(msgspec.Struct, frozen=True):
    """Some members of a segment, and the id after which the next page begins; None at the end."""

    user_ids: Sequence[UserId]
    walked_to: UserId | None


async def members_after(database: Database, slug: Slug, after: UserId | None, limit: int) -> MembersPage:
    """Up to `limit` members with ids above `after`, in order; maybe fewer or none, with more to come.

    Raises SegmentNotFound, Unavailable.
    """
    segment = await database.one(
        _SegmentRow,
        "SELECT id, salt, threshold FROM living_segment(%s)",
        [slug],
    )
    if segment is None:
        raise SegmentNotFound([slug])
    rows = await database.all(
        _CandidateRow,
        MEMBERS_BY_OVERRIDE if not segment.threshold else MEMBERS_BY_BUCKET,
        {
            "segment_id": segment.id,
            "salt": segment.salt,
            "threshold": segment.threshold,
            "after": after or 0,
            "scanned": SCANNED_USERS,
            "limit": limit,
        },
    )
    # The last row is the last user examined, member or not.
    members = [row.user_id for row in rows if row.member]
    ended = not rows or rows[-1].ends_walk
    return MembersPage(members, None if ended else rows[-1].user_id)


# Both read an index after `after`, at most `scanned` entries, and give the members and the last entry read.
_WALK: Final[LiteralString] = """
    , judged AS (
        SELECT user_id, member, row_number() OVER by_id AS entry,
               count(*) FILTER (WHERE member) OVER by_id AS members,
               lead(user_id) OVER by_id IS NULL AS last_seen
        FROM candidates
        WINDOW by_id AS (ORDER BY user_id)
    )
    SELECT user_id, member, last_seen AND (SELECT count(*) FROM candidates) < %(scanned)s AS ends_walk
    FROM judged
    WHERE (member OR last_seen) AND members <= %(limit)s
    ORDER BY user_id
"""

MEMBERS_BY_OVERRIDE: Final[LiteralString] = f"""
    WITH candidates AS MATERIALIZED (
        SELECT user_id, included AND (until IS NULL OR until > (SELECT at FROM present)) AS member
        FROM memberships
        WHERE segment_id = %(segment_id)s AND user_id > %(after)s AND ended_at IS NULL
        ORDER BY user_id
        -- A subquery, else the planner collects the remaining entries by a bitmap, all of them at once.
        LIMIT (SELECT %(scanned)s::integer)
    )
    {_WALK}
"""

MEMBERS_BY_BUCKET: Final[LiteralString] = f"""
    WITH known AS MATERIALIZED (
        SELECT id FROM users WHERE deleted_at IS NULL AND id > %(after)s ORDER BY id LIMIT %(scanned)s
    )
    , candidates AS (
        SELECT u.id AS user_id, coalesce(m.included, bucket(u.id, %(salt)s) < %(threshold)s) AS member
        FROM known u
        LEFT JOIN memberships m
               ON m.user_id = u.id AND m.segment_id = %(segment_id)s AND m.ended_at IS NULL
              AND (m.until IS NULL OR m.until > (SELECT at FROM present))
              -- This follows from the above, but without it the planner reads all overrides of the segment.
              AND m.user_id > %(after)s AND m.user_id <= (SELECT max(id) FROM known)
    )
    {_WALK}
"""


class _ChangedRow(msgspec.Struct, frozen=True):
    segments: Sequence[Slug]
    added: Sequence[Slug]
    removed: Sequence[Slug]
    updated: Sequence[Slug]
    unchanged: Sequence[Slug]
    state: bytes
    xid: int
    catalog_version: int


class _SegmentRow(msgspec.Struct, frozen=True):
    id: int
    salt: int
    threshold: int | None


class _CandidateRow(msgspec.Struct, frozen=True):
    user_id: UserId
    member: bool
    ends_walk: bool


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
