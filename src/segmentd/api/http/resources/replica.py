"""/replica: what other nodes of segmentd ask for; not a part of the API (docs/decisions/0098).

The answers are msgspec's MessagePack, which only nodes with the same format of replicas understand.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Final

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter
from litestar.types import ASGIApp

from segmentd.api.http.edge.download import Content, Download
from segmentd.auth.told_tokens import TokenTeller
from segmentd.domain.errors import read
from segmentd.replica.source import LENGTH_BYTES, Source

_MEDIA_TYPE: Final = "application/x-msgpack"

Copied = NamedDependency[Source]
Teller = NamedDependency[TokenTeller]
After = Annotated[str, QueryParameter(description="id of a user, as 8 bytes in hexadecimal digits")]
Wait = Annotated[int, QueryParameter(description="seconds")]
Of = Annotated[str, QueryParameter(description="identity of the replica, in hexadecimal digits")]


def replica_router(source: Source, teller: TokenTeller) -> Router:
    """The routes, for this process's replica and tokens."""
    return Router(
        "/replica",
        route_handlers=[copy_replica, copy_users, copy_changes, copy_tokens],
        include_in_schema=False,
        dependencies={
            "source": Provide(lambda: source, sync_to_thread=False),
            "teller": Provide(lambda: teller, sync_to_thread=False),
        },
    )


@get("/")
async def copy_replica(source: Copied) -> Response[bytes]:
    """What the replica is."""
    return _answer(source.head())


@get("/users")
async def copy_users(source: Copied, of: Of, after: After = "") -> ASGIApp:
    """All its users, in frames: each is a page after its length in 4 bytes."""
    return Download(_pages(source, _bytes("of", of), _bytes("after", after)))


@get("/changes")
async def copy_changes(
    source: Copied, of: Of, after: FromQuery[int], version: FromQuery[int | None] = None, wait: Wait = 0
) -> Response[bytes]:
    """Who changed after a write, and how old the replica is."""
    return _answer(await source.step(_bytes("of", of), after, version, wait))


@get("/tokens")
async def copy_tokens(teller: Teller, known: FromQuery[int | None] = None, wait: Wait = 0) -> Response[bytes]:
    """The hashes of the tokens in force."""
    return _answer(await teller.tell(known, wait))


@asynccontextmanager
async def _pages(source: Source, identity: bytes, after: bytes) -> AsyncIterator[Content]:
    async def frames() -> AsyncIterator[bytes]:
        async with aclosing(source.pages(identity, after)) as pages:
            async for page in pages:
                encoded = msgspec.msgpack.encode(page)
                yield len(encoded).to_bytes(LENGTH_BYTES) + encoded

    yield Content({"Content-Type": _MEDIA_TYPE}, frames())


def _answer(content: msgspec.Struct) -> Response[bytes]:
    return Response(msgspec.msgpack.encode(content), media_type=_MEDIA_TYPE)


def _bytes(name: str, given: str) -> bytes:
    return read(bytes.fromhex, given, f"/{name}")
