"""A client of HTTP/1.1 that costs little, and that says whether a request without an answer was sent."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

Json = Any

# Longer than the service takes for any answer, an outage of the database included.
PATIENCE_S: Final = 75.0


class Lost(Exception):
    """There is no answer. `sent`: the request may have reached the service."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("sent" if sent else "not sent")
        self.sent = sent


class Answer(NamedTuple):
    """An answer; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        return msgspec.json.decode(self.body)

    @property
    def age(self) -> int:
        """What `Age` says; 0 where it is not there."""
        return int(self.headers.get("age", "0"))


class Client:
    """One connection, opened again whenever it is lost; one request at a time."""

    def __init__(self, host: str, port: int, token: str | None = None, seconds: float = PATIENCE_S) -> None:
        self._host = host
        self._port = port
        self._seconds = seconds
        self._authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        content: bytes | None = None,
        media_type: str = "application/json",
        headers: str = "",
    ) -> Answer:
        """The answer to a request; `body` is sent as JSON, `content` as it is. Raises Lost."""
        sent = False
        given = content if content is not None else b"" if body is None else msgspec.json.encode(body)
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n{self._authorization}{headers}"
            + (f"content-type: {media_type}\r\n" if given else "")
            + f"content-length: {len(given)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = self._streams or await asyncio.open_connection(self._host, self._port)
                self._streams = reader, writer
                sent = True
                writer.write(head.encode() + given)
                return await self._answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise Lost(sent=sent) from error
        except BaseException:
            self.close()
            raise

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines)
            if colon
        }
        status = int(first.split()[1])
        body = b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif status not in {204, 304}:
            body = await reader.read()
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)

    def close(self) -> None:
        """The next request opens another connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
