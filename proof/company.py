"""Writers and a follower of the feed around one node, and all that is compared with what they were told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from proof.agreement import Agreement, Follower
from proof.ledger import Ledger
from proof.node import Node
from proof.writers import Doors, Pause, Writer

_PATIENCE_S: Final = 60.0


class Company:
    """Those who use a node all the time."""

    def __init__(self, doors: Doors, url: Callable[[], str], writers: int, seed: int) -> None:
        self._url = url
        self._pause = Pause()
        self.ledger = Ledger()
        self.writers = [Writer(number, doors, self.ledger, seed) for number in range(1, 1 + writers)]
        self._follower = Follower(doors.client())
        self._agreement = Agreement(self.ledger, self._follower, doors.client())
        self._wrongs = [self._follower.wrong, *(writer.wrong for writer in self.writers)]
        self._tasks = [asyncio.create_task(writer.write(self._pause)) for writer in self.writers]
        self._tasks.append(asyncio.create_task(self._follower.follow()))

    async def differences(self, *, final: bool = False) -> list[str]:
        """What does not agree while all writers wait, and what was answered wrongly since the last call."""
        async with self._pause.quiet():
            found = await self._agreement.differences(self._url, final=final)
        for wrong in self._wrongs:
            found += wrong
            wrong.clear()
        for task in self._tasks:
            if task.done():
                task.result()
        return found

    def quiet(self) -> AbstractAsyncContextManager[None]:
        """All writers wait."""
        return self._pause.quiet()

    async def differences_after_a_restore(self) -> list[str]:
        """What does not agree in a database that lacks the latest changes, while all writers wait.

        It is the last comparison: the ledger no longer says what has to be there.
        """
        found = await self._agreement.differences_within(self._url)
        async with asyncio.timeout(_PATIENCE_S):
            while not self._follower.wrong:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.1)
        if [wrong for wrong in self._follower.wrong if not wrong.startswith("the feed answered 410")]:
            found.append(f"a position that is ahead was answered: {self._follower.wrong[0]}")
        return found

    async def close(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        for writer in self.writers:
            await writer.close()
        self._follower.close()
        self._agreement.close()


@asynccontextmanager
async def company(node: Node, writers: int, seed: int) -> AsyncIterator[Company]:
    """They work until the end of the context."""
    company = Company(node.doors, lambda: node.url, writers, seed)
    try:
        yield company
    finally:
        await company.close()
