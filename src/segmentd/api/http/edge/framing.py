"""Where a request ends, and which host it is for.

llhttp reads every byte of a head and of a body. What it leaves open is decided here, always strictly.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from segmentd.api.problems import HTTP_PROBLEMS, Problem

Headers = Sequence[tuple[bytes, bytes]]

MALFORMED: Final = "This is not a well-formed HTTP/1.1 request."

# The characters of real host names; RFC 3986 would also allow escapes and punctuation.
HOST_NAME: Final = rb"[A-Za-z0-9._~-]{1,255}+"

# The Host as nearly all clients send it: a name with a usual port, in one of two spellings.
USUAL_HOST: Final = rb"[Hh]ost: %b(?::[1-5]?[0-9]{1,4})?\r\n" % HOST_NAME
# The length of a body in its usual form.
USUAL_LENGTH: Final = re.compile(rb"[1-9][0-9]{0,6}")

_HOST: Final = re.compile(rb"(?:%b|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{0,5}))?" % HOST_NAME)
_LAST_PORT: Final = 65_535

# Headers that are lists. The framework hears only the first line of a header.
_LISTS: Final = frozenset({b"accept", b"accept-encoding", b"if-none-match", b"prefer"})


class BadFraming(Exception):
    """The head is refused, and the connection with it, since nobody knows where the request ends."""

    def __init__(self, detail: str = MALFORMED, status: int = 400) -> None:
        super().__init__(detail)
        self.problem: Problem = HTTP_PROBLEMS[status]
        self.detail = detail


def request_parser(callbacks: object) -> httptools.HttpRequestParser:
    """A parser as uvicorn makes it: it ignores everything after a request that closes the connection."""
    parser = httptools.HttpRequestParser(callbacks)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def parser_after(head: Headers, protocol: HttpToolsProtocol, *, keep_alive: bool) -> None:
    """Gives the protocol a parser for what follows a head that asked for an upgrade.

    httptools stops at such a head and never reads the body, but a server that does not switch protocols has
    to read it (RFC 9110, 7.8; docs/decisions/0036). The new parser gets a head with the same framing, so it
    reads the body and its end as strictly as any other, and then the requests after it.
    """
    framing = [(name, value) for name, value in head if name in {b"content-length", b"transfer-encoding"}]
    if not keep_alive:
        framing.append((b"connection", b"close"))
    protocol.parser = request_parser(_AfterHead(protocol))
    lines = b"".join([b"%b: %b\r\n" % header for header in framing])
    protocol.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % lines)


class _AfterHead:
    """A protocol's callbacks, without those for the first head."""

    _past_head = False

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._past_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._past_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._past_head:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._past_head:
            self._protocol.on_headers_complete()
        self._past_head = True


def accepted(version: str, target: bytes, headers: Headers) -> Headers:
    """The headers of a head that the parser accepted: the one Host that counts, and each list in one line.

    Raises BadFraming.

    The parser leaves the blanks after a value, which are no part of it (RFC 9110, 5.5).
    """
    if version not in {"1.0", "1.1"}:
        raise BadFraming
    headers = [(name, value.strip(b" \t")) for name, value in headers]
    for name, value in headers:
        if name == b"transfer-encoding":
            _check_coding(version, value)
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(is_host, hosts)):
        raise BadFraming("A request needs one header Host, which names a host, with a port or without.")
    headers = _with_whole_lists(headers)
    if target.startswith(b"/") or target == b"*":
        return headers
    # The absolute form, in which the header Host does not count (RFC 9112, 3.2.2).
    scheme, _, rest = target.partition(b"://")
    host = rest.partition(b"/")[0]
    if scheme.lower() not in {b"http", b"https"} or not is_host(host):
        raise BadFraming
    return [(b"host", host), *(header for header in headers if header[0] != b"host")]


def _with_whole_lists(headers: Headers) -> Headers:
    lists: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _LISTS:
            lists.setdefault(name, []).append(value)
    others = [header for header in headers if header[0] not in lists]
    return [*others, *((name, b", ".join(values)) for name, values in lists.items())]


def _check_coding(version: str, coding: bytes) -> None:
    if version == "1.0":
        raise BadFraming("HTTP/1.0 has no Transfer-Encoding.")
    if coding.lower() != b"chunked":
        raise BadFraming("The only Transfer-Encoding that is understood here is chunked.", status=501)


@lru_cache(maxsize=64)
def is_host(value: bytes) -> bool:
    """Whether it is a valid host: a name, an IPv4 address or an [IPv6] one, with a port or without."""
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > _LAST_PORT:
        return False
    try:
        return match[1] is None or bool(IPv6Address(match[1].decode()).packed)
    except AddressValueError:
        return False
