"""Lists of users as callers bring them; the service's own background job checks and applies them."""

from collections.abc import AsyncIterable
from typing import Final

import httpx
import msgspec

from segmentd.domain.imports import ImportNumber
from segmentd.imports.work import ImportWork
from segmentd.storage.database import Database
from tests.support.client import Api, Json

CSV: Final = "text/csv"
NDJSON: Final = "application/x-ndjson"

COUNTS: Final = ("added", "removed", "updated", "unchanged")


class Importing:
    """Brings lists, does the background job, and looks at what came of it."""

    def __init__(self, api: Api, database: Database) -> None:
        self.api = api
        self.database = database
        self.work = ImportWork(database)

    async def send(
        self,
        body: str | bytes | AsyncIterable[bytes],
        media_type: str = CSV,
        headers: Json = None,
        **query: str,
    ) -> httpx.Response:
        """The answer to a list; headers are in addition to the media type."""
        content = body.encode() if isinstance(body, str) else body
        return await self.api.post(
            "imports", content=content, params=query, headers={"Content-Type": media_type, **(headers or {})}
        )

    async def begin(self, body: str | bytes, media_type: str = CSV, **query: str) -> Json:
        """An import whose rows are here; nothing is checked yet."""
        answer = await self.send(body, media_type, **query)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def bring(self, body: str | bytes, media_type: str = CSV, **query: str) -> Json:
        """An import that is final."""
        return await self.finish(await self.begin(body, media_type, **query))

    async def finish(self, begun: Json) -> Json:
        """Does the background job to its end."""
        number = await self.number(begun)
        while not await self.work.advance(number):
            pass
        return await self.see(begun)

    async def number(self, found: Json) -> ImportNumber:
        """What the background job calls it."""
        row = await self.database.one(_Number, "SELECT number FROM imports WHERE id = %s", [found["id"]])
        assert row is not None
        return row.number

    async def see(self, found: Json) -> Json:
        """The import as it is now."""
        answer = await self.api.get(f"imports/{found['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def errors(self, found: Json) -> list[Json]:
        """All its bad rows."""
        answer = await self.api.get(f"imports/{found['id']}/errors")
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == NDJSON
        return [msgspec.json.decode(line) for line in answer.content.splitlines()]

    async def members(self, slug: str) -> list[int]:
        """Who is in a segment."""
        return await self.api.walk(f"segments/{slug}/users", "user_ids", 1000)


def counts(found: Json) -> tuple[int, ...]:
    """Added, removed, updated, unchanged."""
    return tuple(found[name] for name in COUNTS)


class _Number(msgspec.Struct, frozen=True):
    number: ImportNumber
