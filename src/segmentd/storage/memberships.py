"""Who is in which segments now (functions/07_memberships.sql)."""

from collections.abc import Sequence

import msgspec

from segmentd.domain.decisions import Decision, Decisions
from segmentd.domain.errors import AnswerTooLarge
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import LARGEST_LOOKUP_BYTES, UserSegments
from segmentd.storage.database import Database


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
    codes = bytes(row.decision for row in rows)
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


async def slugs_of(database: Database, user_ids: Sequence[UserId]) -> Sequence[bytes]:
    """As `look_up`, for few users, in one statement and without a bound on the size. Raises Unavailable."""
    users = await segments_of(database, user_ids)
    return [b",".join(b'"%b"' % slug.encode() for slug in user.segments) for user in users]


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


class _DecidedRow(msgspec.Struct, frozen=True):
    slug: Slug
    decision: int


class _Size(msgspec.Struct, frozen=True):
    bytes: int


class _Slugs(msgspec.Struct, frozen=True):
    user_id: UserId
    slugs: str
