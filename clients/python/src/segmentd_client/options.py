"""What a client is made with: where the service is, who asks, how long it waits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx2

from segmentd_client import errors
from segmentd_client.core import Answer, Call, Result, Retries

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"

Token = str | Callable[[], str]
"""An API token or a JWT; a function is asked before each request, so that it can renew the token."""


@dataclass(frozen=True)
class Options:
    """`timeout_s`: how long nothing may come from the service; `connect_s`: how long connecting may take."""

    server: str
    token: Token | None = field(repr=False)
    timeout_s: float
    connect_s: float
    retries: Retries

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"{self.server!r} is no address of a service; it looks like {DEFAULT_SERVER}")
        if min(self.timeout_s, self.connect_s) <= 0:
            raise ValueError("a time limit is more than 0 seconds")

    def url(self, call: Call[Result]) -> str:
        """The whole address of a call, without its query."""
        return self.server.rstrip("/") + call.path

    def limits(self, call: Call[Result]) -> httpx2.Timeout:
        """How long each step of a call may take."""
        return httpx2.Timeout(self.timeout_s, connect=self.connect_s, read=self.timeout_s + call.wait_s)

    def headers(self, call: Call[Result], version: str) -> Mapping[str, str]:
        """All headers of a call. Raises ValueError for a token that no header can carry."""
        headers = {"user-agent": f"segmentd-client/{version}", **call.all_headers}
        token = self.token() if callable(self.token) else self.token
        if token is not None:
            if not token.isascii() or not token.isprintable() or not token or " " in token:
                raise ValueError("the token has characters that no token has")
            headers["authorization"] = f"Bearer {token}"
        return headers


def answer_of(response: httpx2.Response, body: bytes) -> Answer:
    """The answer in the core's words."""
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, body
    )


def failure(error: httpx2.RequestError, server: str) -> errors.ClientError:
    """The exception of ours for one of the HTTP library."""
    why = str(error) or type(error).__name__
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)):
        return errors.NotSent(f"cannot reach {server}: {why}")
    if isinstance(error, httpx2.TimeoutException):
        return errors.TimedOut(f"no answer from {server} within the time limit")
    if isinstance(error, (httpx2.NetworkError, httpx2.RemoteProtocolError)):
        return errors.AnswerLost(f"the connection to {server} broke: {why}")
    if isinstance(error, (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.ProxyError)):
        return errors.NotSent(f"cannot ask {server}: {why}")
    return errors.UnexpectedAnswer(f"the answer of {server} cannot be read: {why}")
