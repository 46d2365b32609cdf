"""A long answer that is sent while it is made (docs/decisions/0062)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import structlog
from litestar.types import Receive, Scope, Send
from litestar.types.asgi_types import HTTPResponseBodyEvent

from segmentd.background import background
from segmentd.domain.errors import SegmentdError

_log = structlog.get_logger(__name__)


class Content(NamedTuple):
    """The headers of an answer, and the chunks of its body, none of them empty."""

    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Download:
    """An ASGI application that answers with the content that `opened` gives.

    An error before the first chunk is raised. After it the application returns without an end of the body,
    and the connection is reset (broken_off.py). If the client goes away, the content is closed.
    """

    def __init__(self, opened: AbstractAsyncContextManager[Content]) -> None:
        self._opened = opened

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with (
            background(self._send(send), "send a download") as sending,
            background(_disconnected(receive), "wait for a client to go away") as leaving,
        ):
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()

    async def _send(self, send: Send) -> None:
        begun = False
        try:
            async with self._opened as (headers, chunks):
                first = await anext(chunks, b"")
                await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
                begun = True
                if first:
                    await send(_body(first))
                async for chunk in chunks:
                    await asyncio.sleep(0)  # others have their turn, however fast the client reads
                    await send(_body(chunk))
        except Exception as error:
            if not begun:
                raise
            # What is expected to happen needs no traceback.
            traceback = None if isinstance(error, SegmentdError) else error
            _log.warning(
                "answer broken off", error=type(error).__name__, detail=str(error), exc_info=traceback
            )
        else:
            await send(_body(b"", more=False))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(chunk: bytes, *, more: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
