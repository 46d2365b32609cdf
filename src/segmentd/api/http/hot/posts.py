"""A whole plain POST in one piece of bytes, read without the parser; any other byte is the parser's."""

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from segmentd.api.http.edge.framing import USUAL_HOST, USUAL_LENGTH, is_host
from segmentd.api.http.edge.request_ids import HEADER

# The parser handles headers about the connection, an expectation, and any body but one of a known length.
_HEADERS: Final = (
    rb"(?:(?i:connection:[ \t]*keep-alive)\r\n"
    rb"|(?!(?i:host|connection|transfer-encoding|upgrade|expect)[ \t]*:)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*"
)
_LINE: Final = re.compile(rb"POST (/[A-Za-z0-9_./-]*+) HTTP/1\.1\r\n")
# The group is the one Host if it is not of the usual form.
_HEAD: Final = re.compile(
    rb"(?:%b%b|%b(?i:host):[ \t]*+([^ \t\r\n\0]++)[ \t]*+\r\n%b)\r\n"
    % (USUAL_HOST, _HEADERS, _HEADERS, _HEADERS)
)
_LENGTH: Final = b"content-length"
_END: Final = b"\r\n\r\n"

# A client sends the same headers with every request. So many of them are remembered, up to this length.
HEADS_REMEMBERED: Final = 256
LONGEST_REMEMBERED: Final = 1024


class PlainPost(NamedTuple):
    """A request: its path, the headers that matter, by name in small letters, and its body."""

    path: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class _Head(NamedTuple):
    headers: Sequence[tuple[bytes, bytes]]
    body_bytes: int


class PlainPosts:
    """Reads requests of which these headers matter."""

    def __init__(self, noted: Collection[bytes]) -> None:
        names = b"|".join(re.escape(name) for name in {*noted, _LENGTH})
        self._noted = re.compile(rb"\r\n(?i:(%b)):[ \t]*([^\r\n]*)" % names)
        # By their bytes; those with an id of the request are not remembered.
        self._heads: dict[bytes, _Head] = {}

    @property
    def remembered(self) -> int:
        """Of how many different headers it remembers what they say."""
        return len(self._heads)

    def read(self, data: bytes) -> PlainPost | None:
        """The request, if these bytes are exactly one plain one."""
        line = _LINE.match(data)
        if line is None:
            return None
        begin = line.end()
        end = data.find(_END, begin) + len(_END)
        written = data[begin:end]
        head = self._heads.get(written) or self._head_of(written)
        if head is None or head.body_bytes != len(data) - end:
            return None
        return PlainPost(line[1], head.headers, data[end:])

    def _head_of(self, written: bytes) -> _Head | None:
        plain = _HEAD.fullmatch(written)
        if plain is None or (plain[1] is not None and not is_host(plain[1])):
            return None
        found = self._noted.findall(b"\r\n" + written)
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
        lengths = [value for name, value in headers if name == _LENGTH]
        if len(lengths) != 1 or not USUAL_LENGTH.fullmatch(lengths[0]):
            return None
        head = _Head(headers, int(lengths[0]))
        if len(written) <= LONGEST_REMEMBERED and all(name != HEADER for name, _ in headers):
            if len(self._heads) >= HEADS_REMEMBERED:
                self._heads.clear()
            self._heads[written] = head
        return head
