"""Where report files are stored: a local folder, or an object store that all nodes share."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from segmentd.domain.errors import ReportNotFound, ReportStoreFull, StartupFailed
from segmentd.domain.reports import disk_full

# The size of a part of a file in memory; a few parts are in memory at once.
CHUNK_BYTES: Final = 2**20
# Object stores take parts of 5 MiB or more.
_PART_BYTES: Final = 8 * 2**20
_PARTS_AT_ONCE: Final = 2
# What reports leave of a disk: the data directory is often on it too, with the embedded PostgreSQL.
_KEPT_FREE_SHARE: Final = 20
_KEPT_FREE_BYTES: Final = 2**30


class ReportFiles:
    """Files by name. A name gives a complete file or none: a file that is being written is not visible."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, place: str | None, folder: Path) -> "ReportFiles":
        """At a URL such as `s3://bucket/reports` (its keys in the usual AWS_ variables), or in the folder.

        Raises StartupFailed if it is no such URL.
        """
        if place is not None:
            try:
                return cls(from_url(place))
            except (BaseError, ValueError):  # its message would quote the URL, which may hold keys
                raise StartupFailed(
                    "the setting report_store is no URL of an object store; it looks like s3://bucket/reports"
                ) from None
        return cls(LocalStore(folder, mkdir=True))

    def check_room(self, wanted: int) -> None:
        """Checks that the disk of a folder has room for so many bytes beyond those kept free.

        Kept free are 5 % of the disk, 1 GiB at most. Raises
        ReportStoreFull. An object store has no such bound.
        """
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            disk = shutil.disk_usage(self._store.prefix)
            kept_free = min(disk.total // _KEPT_FREE_SHARE, _KEPT_FREE_BYTES)
            if disk.free - kept_free < wanted:
                raise ReportStoreFull(disk_full(disk.free, kept_free))

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Streams the chunks into a file; an error leaves no file."""
        self._remove_unfinished(name)
        # Not put_async: it pulls the chunks itself, and after a cancellation it would go on with one of them.
        writer = obstore.open_writer_async(
            self._store, name, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            async for chunk in chunks:
                await writer.write(chunk)
            await writer.close()
        finally:
            del writer  # ends the unfinished upload now, even if a traceback keeps the writer alive

    async def read(self, name: str, begin: int, end: int) -> AsyncIterator[bytes]:
        """Streams the bytes from `begin` to before `end`. Raises ReportNotFound if there is no file."""
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
        """Removes the files of a folder, and unfinished files of killed builds."""
        names = [file["path"] async for files in obstore.list(self._store, folder) for file in files]
        await obstore.delete_async(self._store, names)
        if local := self._local(folder):
            shutil.rmtree(local, ignore_errors=True)

    def _remove_unfinished(self, name: str) -> None:
        """Removes `name#1`, which a killed build leaves in a local folder; object stores do it themselves."""
        if local := self._local(name):
            for unfinished in local.parent.glob("*#*"):
                unfinished.unlink(missing_ok=True)

    def _local(self, name: str) -> Path | None:
        """The path of the file, if this store is a folder."""
        if isinstance(self._store, LocalStore) and self._store.prefix is not None:
            return self._store.prefix / name
        return None
