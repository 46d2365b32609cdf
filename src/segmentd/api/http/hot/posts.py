"""A whole plain POST in one piece of bytes, read without the parser; any other byte is the parser's."""

import re
from collections.abc import Collection
from typing import Final, NamedTuple

from segmentd.api.http.edge.framing import USUAL_HOST, USUAL_LENGTH, is_host

# The parser handles headers about the connection, an expectation, and any body but one of a known length.
_HEADERS: Final = (
    rb"(?:(?i:connection:[ \t]*keep-alive)\r\n"
    rb"|(?!(?i:host|connection|transfer-encoding|upgrade|expect)[ \t]*:)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*"
)
# The groups are the path, and the one Host if it is not of the usual form.
_HEAD: Final = re.compile(
    rb"POST (/[A-Za-z0-9_./-]*+) HTTP/1\.1\r\n"
    rb"(?:%b%b|%b(?i:host):[ \t]*+([^ \t\r\n\0]++)[ \t]*+\r\n%b)\r\n"
    % (USUAL_HOST, _HEADERS, _HEADERS, _HEADERS)
)
_LENGTH: Final = b"content-length"


class PlainPost(NamedTuple):
    """A request: its path, the headers that matter, by name in small letters, and its body."""

    path: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class PlainPosts:
    """Reads requests of which these headers matter."""

    def __init__(self, noted: Collection[bytes]) -> None:
        names = b"|".join(re.escape(name) for name in {*noted, _LENGTH})
        self._noted = re.compile(rb"\r\n(?i:(%b)):[ \t]*([^\r\n]*)" % names)

    def read(self, data: bytes) -> PlainPost | None:
        """The request, if these bytes are exactly one plain one."""
        head = _HEAD.match(data)
        if head is None or (head[2] is not None and not is_host(head[2])):
            return None
        end = head.end()
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in self._noted.findall(data, 0, end)]
        lengths = [value for name, value in headers if name == _LENGTH]
        if len(lengths) != 1 or not USUAL_LENGTH.fullmatch(lengths[0]) or int(lengths[0]) != len(data) - end:
            return None
        return PlainPost(head[1], headers, data[end:])
