"""Sends calls and reads their answers; sends again what is safe to send again."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self

import httpx2
from anyio import sleep

from segmentd_client.core import Call, Result
from segmentd_client.errors import ClientError
from segmentd_client.options import Options, answer_of, failure
from segmentd_client.version import VERSION

LOG: Final = logging.getLogger("segmentd_client")

Content = Callable[[], AsyncIterator[bytes]]
"""Begins the body of a request, once for each time that it is sent."""


class AsyncTransport:
    """The connections to one service."""

    def __init__(self, options: Options, http: httpx2.AsyncBaseTransport | None = None) -> None:
        self.options: Final = options
        self._http = httpx2.AsyncClient(transport=http, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def send(self, call: Call[Result], content: Content | None = None) -> Result:
        """The result of a call. `content` is a body in pieces.

        Raises a Problem for a refusal, and another ClientError where there is no answer.
        """
        attempt = 0
        while True:
            try:
                return await self.send_once(call, content)
            except ClientError as error:
                await self._pause(call, attempt, error)
            attempt += 1

    @asynccontextmanager
    async def stream(self, call: Call[None]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of an answer that is a stream; it is never held whole.

        Raises as `send`, and AnswerLost while it is read if it breaks off.
        """
        response = await self._opened(call)
        try:
            yield self._pieces(response)
        finally:
            await response.aclose()

    async def send_once(self, call: Call[Result], content: Content | None) -> Result:
        """The same for a body that cannot begin again."""
        try:
            response = await self._http.send(self._request(call, content))
        except httpx2.RequestError as error:
            raise failure(error, self.options.server) from error
        return call.read(answer_of(response, response.content))

    async def _opened(self, call: Call[None]) -> httpx2.Response:
        attempt = 0
        while True:
            try:
                response = await self._http.send(self._request(call, None), stream=True)
                if response.is_success:
                    return response
                try:
                    call.read(answer_of(response, await response.aread()))
                finally:
                    await response.aclose()
            except httpx2.RequestError as error:
                await self._pause(call, attempt, failure(error, self.options.server))
            except ClientError as error:
                await self._pause(call, attempt, error)
            attempt += 1

    async def _pieces(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_bytes():
                yield piece
        except httpx2.RequestError as error:
            raise failure(error, self.options.server) from error

    async def _pause(self, call: Call[Result], attempt: int, error: ClientError) -> None:
        pause_s = self.options.retries.pause_s(attempt, error, can_repeat=call.can_repeat)
        if pause_s is None:
            raise error
        LOG.debug("%s %s again in %.2f s: %s", call.method, call.path, pause_s, error)
        await sleep(pause_s)

    def _request(self, call: Call[Result], content: Content | None) -> httpx2.Request:
        return self._http.build_request(
            call.method,
            self.options.url(call),
            params=call.query,
            headers=self.options.headers(call, VERSION),
            content=call.body if content is None else content(),
            timeout=self.options.limits(call),
        )
