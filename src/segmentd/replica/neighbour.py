"""Another node, as one that follows it or takes a copy of its replica sees it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from segmentd.replica.copying import Page
from segmentd.replica.source import Head, Step


class NeighbourAway(Exception):
    """The neighbour does not answer, or not as it should; the message says why, with no secret in it."""


class CopyNeeded(Exception):
    """The neighbour has another replica, or does not know any more who changed: another copy is needed."""


class Neighbour(Protocol):
    """What it answers. Each raises NeighbourAway."""

    async def head(self) -> Head:
        """Its present replica."""
        ...

    def pages(self, identity: bytes, after: bytes) -> AsyncGenerator[Page]:
        """The users of a replica after a key, by id. Raises CopyNeeded."""
        ...

    async def step(self, identity: bytes, after: int, version: int | None) -> Step:
        """The users who changed after a write; within about a second. Raises CopyNeeded."""
        ...
