"""A pooler of transactions with one connection to PostgreSQL, for where PgBouncer is not installed.

It implements as much of the protocol as it needs to pass on whole transactions, one after the other.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_LOGGED_IN: Final = struct.pack("!cII", b"R", 8, 0)
# The steps of SCRAM that a client answers.
_ANSWERED: Final = {struct.pack("!I", 10), struct.pack("!I", 11)}
_OWN_KEY: Final = struct.pack("!cIII", b"K", 12, 4711, 42)


class Pooler:
    """The first client's login makes the connection; all others take turns on it."""

    def __init__(self, server: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        self._server = server
        self._to_server = to_server
        self._turn = asyncio.Lock()
        self._greeting = b""

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One client, until it closes its connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await self._startup(client, to_client)
            if self._greeting:
                to_client.write(self._greeting)
            else:
                await self._log_in(startup, client, to_client)
            while True:
                first = await _message(client)
                async with self._turn:
                    await self._transaction(first, client, to_client)
        to_client.close()

    async def _startup(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> bytes:
        while True:
            head = await client.readexactly(4)
            body = await client.readexactly(int.from_bytes(head, "big") - 4)
            if int.from_bytes(body[:4], "big") not in {_SSL_REQUEST, _GSS_REQUEST}:
                return head + body
            to_client.write(b"N")

    async def _log_in(
        self, startup: bytes, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        self._to_server.write(startup)
        while (message := await _message(self._server))[:1] != b"Z":
            sent = _OWN_KEY if message[:1] == b"K" else message
            to_client.write(sent)
            # The messages for every later client: it is logged in, and the server's parameters.
            if sent[:1] in b"KS" or sent == _LOGGED_IN:
                self._greeting += sent
            if sent[:1] == b"R" and sent[5:9] in _ANSWERED:
                self._to_server.write(await _message(client))
        self._greeting += message
        to_client.write(message)

    async def _transaction(
        self, message: bytes, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        while True:
            if message[:1] == b"X":
                raise ConnectionResetError
            self._to_server.write(message)
            if message[:1] in b"QS":  # the server answers, up to ReadyForQuery
                while (answer := await _message(self._server))[:1] != b"Z":
                    to_client.write(answer)
                to_client.write(answer)
                if answer[5:] == b"I":
                    return
            message = await _message(client)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


@asynccontextmanager
async def pooler(database_url: str) -> AsyncIterator[str]:
    """The URL that leads through it."""
    parameters = conninfo_to_dict(database_url)
    socket = f"{parameters['host']}/.s.PGSQL.{parameters.get('port', 5432)}"
    server, to_server = await asyncio.open_unix_connection(socket)
    one = Pooler(server, to_server)
    serving: set[asyncio.Task[None]] = set()

    def let_in(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(one.serve(client, to_client)))

    async with await asyncio.start_server(let_in, "127.0.0.1", 0) as door:
        port = door.sockets[0].getsockname()[1]
        yield make_conninfo(database_url, host="127.0.0.1", port=port)
    await asyncio.wait(serving, timeout=10)
    to_server.close()
