"""Background tasks, each owned by a context: no task outlives its owner, and the owner awaits its end."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Result], name: str) -> AsyncIterator[asyncio.Task[Result]]:
    """Runs the work as a task; at its end, the context cancels the task and waits for it."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await end(task)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits until all have ended. Does not raise their errors."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
