"""The room that a report's file needs, within the bound of all files and on the disk under them."""

from collections.abc import Awaitable, Callable

from segmentd.domain.errors import ReportStoreFull
from segmentd.domain.reports import ReportId, store_full
from segmentd.reports.build import Claim
from segmentd.reports.files import ReportFiles
from segmentd.storage import reports
from segmentd.storage.database import Database


def claim_of(
    database: Database,
    files: ReportFiles,
    report_id: ReportId,
    most_bytes: int,
    make_room: Callable[[], Awaitable[None]],
) -> Claim:
    """Claims room for the file of one report; all files have at most `most_bytes` (0: no bound).

    Where there is none, `make_room` removes what has expired, and it tries once more.
    """

    async def claimed(size: int) -> int:
        room: int | None = size + reports.CLAIMED_AHEAD_BYTES
        if most_bytes:
            room = await reports.claim(database, report_id, size, most_bytes)
        if room is None:
            raise ReportStoreFull(store_full(most_bytes))
        files.check_room(room - size)
        return room

    async def claim(size: int) -> int:
        try:
            return await claimed(size)
        except ReportStoreFull:
            await make_room()
            return await claimed(size)

    return claim
