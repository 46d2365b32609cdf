"""A change whose client has gone is brought to its end: this node shows it at once, or it was never made."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from segmentd.background import end

Result = TypeVar("Result")


async def to_its_end(change: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """The result of a change. When its call is cancelled, it has so many seconds until it is cancelled too.

    A change takes milliseconds, unless it waits for a lock or for a silent database.
    """
    changing = asyncio.create_task(change, name="change")
    try:
        return await asyncio.shield(changing)
    finally:
        try:
            if not changing.done():
                await asyncio.wait([changing], timeout=seconds)
        finally:
            await end(changing)
