"""Where report files are kept: a local folder, or an object store that all nodes share."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from segmentd.domain.errors import ReportNotFound, StartupFailed

# What is held in memory of a file that is written or read, a few times over.
CHUNK_BYTES: Final = 2**20
# Object stores take parts of 5 MiB or more.
_PART_BYTES: Final = 8 * 2**20
_PARTS_AT_ONCE: Final = 2


class ReportFiles:
    """Files by name. A name shows a whole file or none: what is being written is not to be seen."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, place: str | None, folder: Path) -> "ReportFiles":
        """At a URL such as `s3://bucket/reports` (its keys in the usual AWS_ variables), or in the folder.

        Raises StartupFailed where it is no such URL.
        """
        if place is not None:
            try:
                return cls(from_url(place))
            except (BaseError, ValueError):  # its message would quote the URL, which may hold keys
                raise StartupFailed(
                    "the setting report_store is no URL of an object store; it looks like s3://bucket/reports"
                ) from None
        return cls(LocalStore(folder, mkdir=True))

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Streams the chunks into a file; an error among them leaves no file."""
        self._remove_unfinished(name)
        # Not put_async: it draws the chunks by itself, and when cancelled it goes on in the midst of one.
        writer = obstore.open_writer_async(
            self._store, name, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            async for chunk in chunks:
                await writer.write(chunk)
            await writer.close()
        finally:
            del writer  # and with it what is unfinished, however long a traceback may live

    async def read(self, name: str, begin: int, end: int) -> AsyncIterator[bytes]:
        """Streams the bytes from `begin` to before `end`. Raises ReportNotFound where there is no file."""
        if begin >= end:  # stores refuse an empty range
            return
        try:
            found = await obstore.get_async(self._store, name, options={"range": (begin, end)})
        except (FileNotFoundError, NotFoundError):
            raise ReportNotFound(
                "The file of this report is not on this node; see the setting report_store."
            ) from None
        async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)

    async def delete(self, folder: str) -> None:
        """Removes the files of a folder, if there are any, and what killed builds left of them."""
        names = [file["path"] async for files in obstore.list(self._store, folder) for file in files]
        await obstore.delete_async(self._store, names)
        if local := self._local(folder):
            shutil.rmtree(local, ignore_errors=True)

    def _remove_unfinished(self, name: str) -> None:
        """A local folder keeps `name#1` of a build that was killed; object stores see to that themselves."""
        if local := self._local(name):
            for unfinished in local.parent.glob("*#*"):
                unfinished.unlink(missing_ok=True)

    def _local(self, name: str) -> Path | None:
        """Where the name is in the file system, if this store is a folder."""
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            return self._store.prefix / name
        return None
