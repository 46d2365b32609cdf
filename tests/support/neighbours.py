"""A neighbour in the test's own process; what it says is written and read as between two nodes."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from segmentd.domain.errors import PositionExpired, Unavailable
from segmentd.replica.copying import Page
from segmentd.replica.neighbour import CopyNeeded, NeighbourAway
from segmentd.replica.replica import Replica
from segmentd.replica.source import Head, Source, Step
from segmentd.replica.store import Store

Said = TypeVar("Said")


class SharedReplica(Replica):
    """Reads a file that this process has open already: LMDB lets it open a file only once."""

    def __init__(self, folder: Path, store: Callable[[], Store]) -> None:
        super().__init__(folder, 50)
        self._shared = store

    def serving(self) -> Store:
        return self._shared()


class LocalNeighbour:
    """Gives what a source does, until it is away or a copy breaks off."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.is_away = False
        self.pages_left: int | None = None
        """After so many pages the copy breaks off, once; None: it does not."""
        self.between: Callable[[], None] = lambda: None
        """Called after each page."""
        self.pages_sent = 0

    async def head(self) -> Head:
        self._check()
        try:
            return said(self.source.head(), Head)
        except Unavailable as error:
            raise NeighbourAway(error.detail) from error

    async def pages(self, identity: bytes, after: bytes) -> AsyncGenerator[Page]:
        self._check()
        try:
            async for page in self.source.pages(identity, after):
                if self.pages_left == 0:
                    self.pages_left = None
                    raise NeighbourAway("the copy broke off")
                if self.pages_left is not None:
                    self.pages_left -= 1
                self.pages_sent += 1
                yield said(page, Page)
                self.between()
        except PositionExpired as error:
            raise CopyNeeded(error.detail) from error
        except Unavailable as error:
            raise NeighbourAway(error.detail) from error

    async def step(self, identity: bytes, after: int, version: int | None) -> Step:
        self._check()
        try:
            return said(await self.source.step(identity, after, version, 0), Step)
        except PositionExpired as error:
            raise CopyNeeded(error.detail) from error
        except Unavailable as error:
            raise NeighbourAway(error.detail) from error

    def _check(self) -> None:
        if self.is_away:
            raise NeighbourAway("it is away")


def said(content: object, kind: type[Said]) -> Said:
    """The same, through the bytes that one node sends to another."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(content), type=kind)
