"""Another node over HTTP, for a node that follows it or takes a copy of its replica."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

import httpx2
import msgspec

from segmentd.auth.told_tokens import ToldTokens
from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.replica.copying import Page
from segmentd.replica.files import Unusable
from segmentd.replica.filling import checked
from segmentd.replica.neighbour import CopyNeeded, NeighbourAway
from segmentd.replica.source import LENGTH_BYTES, LONGEST_WAIT_S, Head, Step

_CONNECT_S: Final = 5.0
_SILENT_S: Final = 10.0
# Of one answer: a step of a thousand users with the largest states, and a catalog of tens of thousands.
_MOST_BYTES: Final = 256 * 2**20

Answer = TypeVar("Answer")


class HttpNeighbour:
    """Asks the neighbour at a URL; `token` gives the secret that it asks with, which may change."""

    def __init__(self, url: str, token: Callable[[], str | None]) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(_SILENT_S, connect=_CONNECT_S),
            # What is compressed for each follower would cost the neighbour more than the states do.
            headers={"Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

    async def head(self) -> Head:
        """Raises NeighbourAway."""
        return await self._ask("/replica", {}, Head)

    async def step(self, identity: bytes, after: int, version: int | None) -> Step:
        """Raises NeighbourAway, CopyNeeded."""
        query = {"of": identity.hex(), "after": str(after), "wait": str(int(LONGEST_WAIT_S))}
        if version is not None:
            query["version"] = str(version)
        return await self._ask("/replica/changes", query, Step)

    async def tokens(self, known: int | None) -> ToldTokens:
        """The tokens in force, if they are others than those known. Raises NeighbourAway."""
        query = {"wait": str(int(LONGEST_WAIT_S))} | ({} if known is None else {"known": str(known)})
        return await self._ask("/replica/tokens", query, ToldTokens)

    async def pages(self, identity: bytes, after: bytes) -> AsyncGenerator[Page]:
        """Raises NeighbourAway, CopyNeeded."""
        query = {"of": identity.hex(), "after": after.hex()}
        async with self._answer("/replica/users", query) as response:
            unread = bytearray()
            async for chunk in response.aiter_raw():
                unread += chunk
                for frame in _frames(unread):
                    yield _decoded(frame, Page)
            if unread:
                raise NeighbourAway("its answer broke off")

    async def _ask(self, path: str, query: dict[str, str], kind: type[Answer]) -> Answer:
        async with self._answer(path, query) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise NeighbourAway("its answer is too large")
        return _decoded(bytes(body), kind)

    @asynccontextmanager
    async def _answer(self, path: str, query: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        token = self._token()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            async with self._client.stream(
                "GET", f"{self._url}{path}", params=query, headers=headers
            ) as response:
                if response.status_code == httpx2.codes.GONE:
                    raise CopyNeeded("the neighbour has another replica, or not all changes since")
                if response.status_code != httpx2.codes.OK:
                    raise NeighbourAway(f"it answered {response.status_code} {response.reason_phrase}")
                yield response
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise NeighbourAway(f"it cannot be reached: {reason}") from error


def token_of(settings: Settings) -> Callable[[], str | None]:
    """Gives the token of the settings; that in a file is read each time, so that it can be replaced."""

    def read() -> str | None:
        if settings.neighbour_token is not None or settings.neighbour_token_file is None:
            return settings.neighbour_token
        try:
            return Path(settings.neighbour_token_file).read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise NeighbourAway(
                f"the token cannot be read from {settings.neighbour_token_file}: {error.strerror}"
            ) from error

    return read


async def found_neighbour(settings: Settings) -> str:
    """What a check of the settings says about the node that is followed. Raises StartupFailed."""
    if settings.follow is None:
        raise ValueError("it follows nobody")
    async with HttpNeighbour(settings.follow, token_of(settings)) as neighbour:
        try:
            head = checked(await neighbour.head())
        except (NeighbourAway, CopyNeeded, Unusable) as error:
            raise StartupFailed(f"cannot follow {settings.follow}: {error}") from error
    return f"which answers with a {head.format.decode()}"


def _frames(unread: bytearray) -> list[bytes]:
    """Takes the whole frames from the beginning: each after its length in 4 bytes."""
    frames: list[bytes] = []
    place = 0
    while len(unread) >= (begin := place + LENGTH_BYTES):
        length = int.from_bytes(unread[place:begin])
        if length > _MOST_BYTES:
            raise NeighbourAway("its answer is too large")
        if len(unread) < begin + length:
            break
        place = begin + length
        frames.append(bytes(unread[begin:place]))
    del unread[:place]
    return frames


def _decoded(body: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise NeighbourAway(f"its answer cannot be read: {error}") from error
