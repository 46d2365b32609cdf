"""Work that nobody waits for any more ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from segmentd.api.http.types import AnyRequest
from segmentd.background import background
from segmentd.domain.errors import Unavailable

Result = TypeVar("Result")


async def while_awaited(request: AnyRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the work, which is cancelled if the client goes away. Call it after the body was read.

    Raises Unavailable, to nobody, if the client went away.
    """
    async with (
        background(work, "work for a client") as working,
        background(_departure(request), "watch a client") as watching,
    ):
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Unavailable("The client went away before the answer.")


async def _departure(request: AnyRequest) -> None:
    # Without a body, the first message is an empty one.
    while (await request.receive())["type"] != "http.disconnect":
        pass
