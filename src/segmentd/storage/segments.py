"""Segments and their rollouts in PostgreSQL (functions/04_catalog.sql)."""

from collections.abc import Sequence
from typing import Final, LiteralString

import msgspec
import psycopg
from msgspec import UNSET

from segmentd.domain.access import Actor
from segmentd.domain.errors import SegmentExists, SegmentNotFound
from segmentd.domain.identifiers import Slug
from segmentd.domain.segments import NOTHING_SEEN, NewSegment, Segment, SegmentUpdate
from segmentd.storage.database import Database, Succeeded

_COLUMNS: Final[LiteralString] = "slug, description, percent, salt, created_at"
_SEEN: Final = msgspec.json.Encoder(decimal_format="number")


async def create(database: Database, segment: NewSegment, actor: Actor) -> Segment:
    """Makes a segment. Raises SegmentExists, Unavailable."""
    try:
        [created] = await database.all(
            Segment,
            f"SELECT {_COLUMNS} FROM create_segment(%s, %s, %s, %s, %s, %s)",
            [segment.slug, segment.description, segment.percent, segment.salt, *actor],
        )
    except psycopg.errors.UniqueViolation:
        raise SegmentExists(segment.slug) from None
    return created


async def get(database: Database, slug: Slug) -> Segment:
    """The living segment with exactly this slug. Raises SegmentNotFound, Unavailable."""
    found = await database.one(
        Segment,
        f"SELECT {_COLUMNS} FROM living_segment(%s)",
        [slug],
    )
    if found is None:
        raise SegmentNotFound([slug])
    return found


async def list_after(database: Database, after: Slug | None, limit: int) -> Sequence[Segment]:
    """Up to `limit` living segments that sort after `after`, bytewise by slug. Raises Unavailable."""
    return await database.all(
        Segment,
        f"SELECT {_COLUMNS} FROM living_segments WHERE slug > %s ORDER BY slug LIMIT %s",
        [after or "", limit],
    )


async def list_with_part(database: Database, part: str, after: Slug | None, limit: int) -> Sequence[Segment]:
    """As `list_after`, of the segments whose slugs have this part, in any case. Raises Unavailable."""
    return await database.all(
        Segment,
        f"SELECT {_COLUMNS} FROM living_segments"
        " WHERE slug > %s AND strpos(lower(slug), lower(%s)) > 0 ORDER BY slug LIMIT %s",
        [after or "", part, limit],
    )


async def update(
    database: Database,
    slug: Slug,
    update: SegmentUpdate,
    actor: Actor,
    seen: SegmentUpdate = NOTHING_SEEN,
) -> Segment:
    """Makes the changes asked for, if the segment still has the values that were seen; returns it as it is.

    Raises SegmentNotFound, SegmentExists, Unavailable.
    """
    new_slug = None if update.slug is UNSET else update.slug
    try:
        updated = await database.one(
            Segment,
            f"SELECT {_COLUMNS} FROM update_segment(%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                slug,
                new_slug,
                None if update.description is UNSET else update.description,
                None if update.percent is UNSET else update.percent,
                update.percent is None,
                *actor,
                _SEEN.encode(seen).decode(),
            ],
        )
    except psycopg.errors.UniqueViolation:
        raise SegmentExists(new_slug or slug) from None
    if updated is None:
        raise SegmentNotFound([slug])
    return updated


async def delete(database: Database, slug: Slug, actor: Actor) -> None:
    """Ends every membership in it at once, keeps the history. Raises SegmentNotFound, Unavailable."""
    [deleted] = await database.all(
        Succeeded, "SELECT delete_segment(%s, %s, %s) AS succeeded", [slug, *actor]
    )
    if not deleted.succeeded:
        raise SegmentNotFound([slug])
