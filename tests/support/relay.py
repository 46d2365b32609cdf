"""A relay whose address stays the same while the server behind it stops, and starts elsewhere."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

from segmentd.background import end


class Relay:
    """Passes TCP connections on to the Unix socket of an embedded PostgreSQL, or to the port of a service."""

    def __init__(self, server_url: str, port: int) -> None:
        self._server_url = server_url
        self._port = port
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.passing: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.StreamWriter] = set()
        self._cut = False
        self.delay_s = 0.0
        """How long each piece is on its way."""
        self.bytes_per_second = math.inf
        """Of each connection in each direction."""

    @property
    def url(self) -> str:
        """The URL of the database through the relay."""
        parts = urlsplit(self._server_url)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self._port}").geturl()

    @property
    def is_cut(self) -> bool:
        """Whether no connection passes."""
        return self._cut

    @property
    def socket(self) -> str:
        """The socket of the server."""
        parameters = conninfo_to_dict(self._server_url)
        return f"{parameters['host']}/.s.PGSQL.{parameters.get('port', 5432)}"

    def hush(self) -> None:
        """From now on nothing passes, and no connection is closed."""
        self.flowing.clear()

    async def cut(self) -> None:
        """From now on connections are refused, and existing ones are closed."""
        self._cut = True
        await end(*self.passing)

    def reset(self) -> None:
        """Resets all connections, in the middle of whatever passes; new ones are let in."""
        for stream in self._streams:
            stream.transport.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server. Raises OSError."""
        parts = urlsplit(self._server_url)
        if parts.scheme == "http":
            return await asyncio.open_connection(parts.hostname, parts.port)
        return await asyncio.open_unix_connection(self.socket)

    async def copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Passes on what comes, until one end closes."""
        self._streams.add(target)
        try:
            with suppress(OSError):
                while chunk := await source.read(65536):
                    await asyncio.sleep(self.delay_s + len(chunk) / self.bytes_per_second)
                    await self.flowing.wait()
                    target.write(chunk)
                    await target.drain()
        finally:
            self._streams.discard(target)
            target.close()

    def mend(self) -> None:
        """From now on connections pass again."""
        self._cut = False

    def lead_to(self, server_url: str) -> None:
        """From now on connections pass to this server."""
        self._server_url = server_url


@asynccontextmanager
async def relay_to(server_url: str) -> AsyncIterator[Relay]:
    """An open relay."""

    async def pass_on(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if relay.is_cut:
            to_client.close()
            return
        try:
            server, to_server = await relay.connect()
        except OSError:
            to_client.close()
            return
        await asyncio.gather(relay.copy(client, to_server), relay.copy(server, to_client))

    def let_in(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(pass_on(client, to_client))
        relay.passing.add(task)
        task.add_done_callback(relay.passing.discard)

    async with await asyncio.start_server(let_in, "127.0.0.1", 0) as door:
        relay = Relay(server_url, door.sockets[0].getsockname()[1])
        try:
            yield relay
        finally:
            await relay.cut()
