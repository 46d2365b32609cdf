"""The API as a client sees it, with short names for frequent calls."""

import json
from collections.abc import Awaitable
from typing import Any, Final, cast
from urllib.parse import urlencode

import httpx
from litestar.types import ASGIApp

from tests.support.asgi import Request, ask

Json = Any

ORIGIN: Final = "http://segmentd.test"


class Api(httpx.AsyncClient):
    """An HTTP client of one application; paths are below /api/v1 unless they begin with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        transport = httpx.ASGITransport(app=cast("Any", app))  # two libraries spell ASGI's types differently
        super().__init__(transport=transport, base_url=f"{ORIGIN}/api/v1/")

    async def request(self, method: str, url: httpx.URL | str, **options: Json) -> httpx.Response:
        """As in httpx, but a slash at the beginning of `url` means the root."""
        if isinstance(url, str) and url.startswith("/"):
            url = f"{ORIGIN}{url}"
        return await super().request(method, url, **options)

    async def create(self, slug: str, **fields: Json) -> Json:
        """Makes a segment."""
        return await self._ok(self.post("segments", json={"slug": slug, **fields}), 201)

    async def change_segment(self, slug: str, /, **fields: Json) -> Json:
        """Renames, describes or changes the percentage."""
        return await self._ok(self.patch(f"segments/{slug}", json=fields))

    async def add(self, user_id: int, *segments: str | dict[str, Json]) -> Json:
        """Adds segments, each a slug or a slug with a term."""
        return await self.change(user_id, add=[*segments])

    async def remove(self, user_id: int, *slugs: str) -> Json:
        """Removes segments."""
        return await self.change(user_id, remove=[*slugs])

    async def change(self, user_id: int, **change: Json) -> Json:
        """Adds and removes in one request."""
        return await self._ok(self.post(f"users/{user_id}/segments", json=change))

    async def segments(self, user_id: int, **query: str) -> Json:
        """The segments that the user is in."""
        return (await self._ok(self.get(f"users/{user_id}/segments", params=query)))["segments"]

    async def explain(self, user_id: int, slug: str, **query: str) -> Json:
        """Why the user is in or is not."""
        return await self._ok(self.get(f"users/{user_id}/segments/{slug}", params=query))

    async def history(self, user_id: int, **query: str) -> Json:
        """The first page of the user's events."""
        return (await self._ok(self.get(f"users/{user_id}/history", params=query)))["events"]

    async def walk(self, path: str, key: str, limit: int, **query: str) -> list[Json]:
        """All items of a list, page by page."""
        items: list[Json] = []
        query["limit"] = str(limit)
        while True:
            page = await self._ok(self.get(path, params=query))
            assert len(page[key]) <= limit
            items += page[key]
            if page["next_cursor"] is None:
                return items
            query["cursor"] = page["next_cursor"]

    async def _ok(self, request: Awaitable[httpx.Response], status: int = 200) -> Json:
        answer = await request
        assert answer.status_code == status, answer.text
        return answer.json()


class DirectApi(Api):
    """The same, without what httpx does about a request: a third of a quick request's time.

    It knows paths, parameters, and bodies in JSON or as they are.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._app = app

    async def request(self, method: str, url: httpx.URL | str, **options: Json) -> httpx.Response:
        """As in Api."""
        path = str(url) if str(url).startswith("/") else f"/api/v1/{url}"
        if params := options.get("params"):
            path += f"?{urlencode(params)}"
        headers = dict(options.get("headers") or {})
        body = options.get("content") or b""
        if (given := options.get("json")) is not None:
            body = json.dumps(given).encode()
            headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        lines = [(name.lower(), value) for name, value in headers.items()]
        answer = await ask(self._app, Request(method, path, lines, (body,), stays=True))
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body)
