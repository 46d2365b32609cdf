"""Reports: additions and removals in a period, as a CSV file behind a link."""

import enum
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple, NewType
from uuid import UUID

import msgspec

from segmentd.domain.errors import Fault, Invalid, ReportNotFound, ReportStoreFull, TooManyReports
from segmentd.domain.identifiers import Slug, UserId, read_uuid
from segmentd.domain.instants import LAST_INSTANT, Span

ReportId = NewType("ReportId", UUID)
"""Random, so that nobody guesses it."""

MOST_DAYS: Final = 3650
"""For which a report's link may work."""

LONGEST_WAIT_S: Final = 60
"""For which an order may wait for its report."""


def read_report_id(text: str) -> ReportId:
    """The id in a text. Raises ReportNotFound if it is no id."""
    try:
        return ReportId(read_uuid(text))
    except ValueError:
        raise ReportNotFound from None


class Period(NamedTuple):
    """A half-open span of time in UTC; `pointer` is where a request names its beginning."""

    begins_at: datetime
    ends_at: datetime
    pointer: str = "/from"

    @classmethod
    def of_month(cls, month: str) -> "Period":
        """`2026-11`, from its first instant to before the next month's. Raises Invalid."""
        match = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", month)
        # The last month of the calendar has no next month, at whose beginning it would end.
        if match is None or not 1 <= int(match[1]) < LAST_INSTANT.year:
            raise Invalid(Fault("/month", "a month is written like 2026-11, with a year from 0001 to 9998"))
        year, number = int(match[1]), int(match[2])
        following = (year, number + 1) if number < 12 else (year + 1, 1)  # noqa: PLR2004 - December
        return cls(datetime(year, number, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC), "/month")

    @classmethod
    def of(cls, month: str | None, begins_at: datetime | None, ends_at: datetime | None) -> "Period":
        """A month, or from one instant to before another. Raises Invalid."""
        if month is not None:
            if begins_at is not None or ends_at is not None:
                raise Invalid(Fault("/month", "a month excludes from and to"))
            return cls.of_month(month)
        if begins_at is None or ends_at is None:
            raise Invalid(Fault("", "name a month, or both from and to"))
        return cls(begins_at, ends_at)

    def check(self, now: datetime) -> None:
        """Raises Invalid for a period that is empty, reversed, or has not begun."""
        Span(self.begins_at, self.ends_at).check()
        if self.begins_at >= now:
            raise Invalid(Fault(self.pointer, "the period lies wholly in the future"))


class Status(enum.StrEnum):
    """The status of a report."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self in (Status.DONE, Status.FAILED)


class ReportOrder(msgspec.Struct, frozen=True):
    """What a report is about; `user_id` and `segment` None: all of them."""

    period: Period
    user_id: UserId | None
    segment: Slug | None
    header: bool


class ReportLoad(msgspec.Struct, frozen=True):
    """The reports that are not final, of one caller and of all, and the bytes of all files."""

    of_caller: int
    of_all: int
    stored_bytes: int


class ReportLimits(NamedTuple):
    """How many reports may be in progress, and how many bytes their files may have; 0 bytes are no limit."""

    of_caller: int = 100
    store_bytes: int = 10 * 2**30

    @property
    def of_all(self) -> int:
        """Of all callers together."""
        return 10 * self.of_caller

    def check(self, load: ReportLoad) -> None:
        """Checks whether one more may be ordered. Raises TooManyReports, ReportStoreFull."""
        if load.of_caller >= self.of_caller:
            raise TooManyReports(
                f"{load.of_caller} of your reports are not done yet, as many as a caller may have; wait for"
                " one of them (GET /api/v1/reports/ID), then order again."
            )
        if load.of_all >= self.of_all:
            raise TooManyReports(
                f"{load.of_all} reports wait to be made, as many as this service takes; order again later."
            )
        if self.store_bytes and load.stored_bytes >= self.store_bytes:
            raise ReportStoreFull(store_full(self.store_bytes))


def store_full(most_bytes: int) -> str:
    """The message when there is no room for another file, or for more of one."""
    return (
        f"The files of reports take all of the {most_bytes} bytes that they may take; order again when some"
        " have expired, order a shorter period, or have the setting report_store_bytes raised."
    )


def disk_full(free: int, kept_free: int) -> str:
    """The message when a report would take the last bytes of the disk under the files."""
    return (
        f"The disk under the files of reports has {free} bytes left, of which {kept_free} are kept for the"
        " rest of the service; order a shorter period, or have room made."
    )


class Report(msgspec.Struct, frozen=True):
    """A report. Its figures are None until it is done, `reason` unless it failed; `size` is in bytes."""

    id: ReportId
    status: Status
    begins_at: datetime
    ends_at: datetime
    user_id: UserId | None
    segment_id: int | None
    header: bool
    as_of: datetime | None
    rows: int | None
    size: int | None
    sha256: str | None
    reason: str | None
    created_at: datetime
    expires_at: datetime

    @property
    def folder(self) -> str:
        """The folder of its file, and of unfinished files of killed builds."""
        return str(self.id)

    @property
    def file_name(self) -> str:
        """The file's name; it has `as_of` in it, so that two builds of a report never write the same file."""
        return f"{self.folder}/{self.as_of:%Y%m%dT%H%M%S.%f}.csv"


class ListedReport(Report, frozen=True):
    """A report with who ordered it, and for whom, and the slug that its segment has now."""

    ordered_by: str
    on_behalf_of: str | None
    segment: Slug | None


class ReportKey(NamedTuple):
    """Where a report is in the list of all, which is by the time of the order."""

    created_at: datetime
    id: UUID

    @classmethod
    def of(cls, report: Report) -> "ReportKey":
        return cls(report.created_at, report.id)


REPORT_KEYS: Final[msgspec.msgpack.Decoder[ReportKey]] = msgspec.msgpack.Decoder(ReportKey)


class Built(NamedTuple):
    """The figures of a finished file."""

    as_of: datetime
    rows: int
    size: int
    sha256: str
