"""Files that are the same for everybody: a process holds each once, plain and compressed, for all answers."""

import gzip
import hashlib
from functools import cache
from importlib import resources
from typing import Final, Self

from litestar import Response

from segmentd.api.http.edge.compression import takes_gzip
from segmentd.api.http.edge.send_buffer import SharedBytes
from segmentd.api.http.entity_tags import names

_ONE_DAY: Final = "max-age=86400"


class Asset:
    """The content of a file, and the same compressed."""

    def __init__(self, content: bytes, media_type: str) -> None:
        digest = hashlib.sha256(content).hexdigest()[:32]
        self._media_type = media_type
        self._plain = SharedBytes(content), f'"{digest}"'
        # Without the time, so that the processes of all nodes give the same bytes under the same tag.
        self._packed = SharedBytes(gzip.compress(content, compresslevel=6, mtime=0)), f'"{digest}-gzip"'

    @classmethod
    @cache
    def of_package(cls, package: str, path: str, media_type: str) -> Self:
        """A file that comes with a package."""
        return cls(resources.files(package).joinpath(path).read_bytes(), media_type)

    def answer(self, accept_encoding: str, none_match: str | None) -> Response[bytes]:
        """The content, compressed if the client accepts that; 304 if the client has it already."""
        packed = takes_gzip(accept_encoding)
        content, etag = self._packed if packed else self._plain
        headers = {"ETag": etag, "Cache-Control": _ONE_DAY, "Vary": "Accept-Encoding"}
        if none_match is not None and names(none_match, etag):
            return Response(b"", status_code=304, media_type=self._media_type, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(content, media_type=self._media_type, headers=headers)
