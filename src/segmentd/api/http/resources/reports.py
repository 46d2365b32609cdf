"""/reports: order one, read its status, fetch the file by its link."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from litestar import Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta, Struct, field

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.addresses import address, location
from segmentd.api.http.edge.guard import actor
from segmentd.api.http.entity_tags import names
from segmentd.api.http.prefer import preferred_wait
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import (
    AnyRequest,
    Ids,
    IdsParameter,
    InstantText,
    RequestBody,
    UseCases,
    WrittenId,
    instant_text,
)
from segmentd.domain.errors import (
    Gone,
    ReportExpired,
    ReportNotFound,
    ReportNotReady,
    ReportStoreFull,
    SegmentNotFound,
    TooManyReports,
    UserNotFound,
    read,
)
from segmentd.domain.identifiers import SlugValue
from segmentd.domain.instants import InstantValue, in_utc, rfc3339
from segmentd.domain.reports import Period, Report, ReportOrder, Status, read_report_id

ReportIdParameter = Annotated[
    str, PathParameter(description="from the order's answer", schema_extra={"format": "uuid"})
]


class Order(RequestBody, frozen=True):
    """A month, or from `from` (inclusive) to `to` (exclusive); of all users and segments or of one."""

    month: Annotated[str, Meta(examples=["2026-11"])] | None = None
    begin: InstantValue | None = field(default=None, name="from")
    end: InstantValue | None = field(default=None, name="to")
    user_id: WrittenId | None = None
    segment: SlugValue | None = None
    header: bool = False

    def to_order(self, ids: Ids) -> ReportOrder:
        """In the words of the domain. Raises Invalid."""
        user_id = None if self.user_id is None else ids.read(self.user_id, "/user_id")
        return ReportOrder(self._period(), user_id, self.segment, self.header)

    def _period(self) -> Period:
        begins_at = None if self.begin is None else read(in_utc, self.begin, "/from")
        ends_at = None if self.end is None else read(in_utc, self.end, "/to")
        return Period.of(self.month, begins_at, ends_at)


class ReportBody(Struct, frozen=True):
    """A report; `url` is the link to its file, from the first answer on."""

    id: str
    status: Status
    url: str
    rows: int | None
    sha256: str | None
    as_of: InstantText | None
    created_at: InstantText
    expires_at: InstantText
    reason: str | None

    @classmethod
    def of(cls, report: Report, url: str) -> "ReportBody":
        return cls(
            str(report.id),
            report.status,
            url,
            report.rows,
            report.sha256,
            instant_text(report.as_of),
            rfc3339(report.created_at),
            rfc3339(report.expires_at),
            report.reason,
        )


@post(
    "/",
    status_code=202,
    dto=StrictJson[Order],
    responses={
        200: ResponseSpec(ReportBody, generate_examples=False, description="done or failed in time"),
        **problems(UserNotFound, SegmentNotFound, Gone, TooManyReports, ReportStoreFull),
    },
)
async def order_report(
    request: AnyRequest,
    data: JSONBody[Order],
    service: UseCases,
    prefer: Annotated[str | None, HeaderParameter(name="Prefer", description="wait=10: seconds")] = None,
    ids: IdsParameter = Ids.NUMBER,
) -> Response[ReportBody]:
    """Order a report. The link is in the answer at once; the file is there when the status is done.

    A caller may have a number of reports that are not done, 100 unless set otherwise. With `Prefer: wait=N`
    the answer waits for the report; if it cannot wait, it is 202 with the report as it is then.
    """
    seconds = preferred_wait(prefer)
    report, signature = await service.reports.order(data.to_order(ids), actor(request), seconds)
    headers = {"Location": location(request, f"/api/v1/reports/{report.id}")}
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    return Response(
        ReportBody.of(report, file_link(request, report, signature)),
        status_code=200 if report.status.final else 202,
        headers=headers,
    )


@get("/{report_id:str}", responses=problems(ReportNotFound))
async def get_report(request: AnyRequest, report_id: ReportIdParameter, service: UseCases) -> ReportBody:
    """Read the status of a report."""
    report, signature = await service.reports.get(read_report_id(report_id))
    return ReportBody.of(report, file_link(request, report, signature))


@get(
    "/{report_id:str}/file",
    media_type="text/csv",
    responses={
        206: ResponseSpec(bytes, generate_examples=False, media_type="text/csv", description="the range"),
        304: ResponseSpec(None, generate_examples=False, description="the file is the one known"),
        416: ResponseSpec(None, generate_examples=False, description="the range is beyond the end"),
        **problems(ReportNotFound, ReportNotReady, ReportExpired),
    },
)
async def get_report_file(
    report_id: ReportIdParameter,
    service: UseCases,
    signature: Annotated[str, QueryParameter(description="stands in the link")] = "",
    none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
    byte_range: Annotated[str | None, HeaderParameter(name="Range")] = None,
    if_range: Annotated[str | None, HeaderParameter(name="If-Range")] = None,
) -> Response[bytes] | Stream:
    """Fetch the CSV file: user_id;segment;add or remove;time."""
    report = await service.reports.get_file(read_report_id(report_id), signature)
    size = report.size or 0
    headers = {
        "ETag": f'"{report.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="segmentd-{report.begins_at:%Y-%m-%d}-{report.id}.csv"',
    }
    if none_match is not None and names(none_match, headers["ETag"]):
        return Response(b"", status_code=304, headers=headers)
    span = _span(byte_range, size) if if_range in {None, headers["ETag"]} else None
    if span is not None and not span:
        return Response(b"", status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    if span is None:
        return await _file(service.reports.read(report, 0, size), 200, size, headers)
    begin, end = span.start, span.stop
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return await _file(service.reports.read(report, begin, end), 206, end - begin, headers)


async def _file(content: AsyncIterator[bytes], status: int, size: int, headers: Mapping[str, str]) -> Stream:
    # Open the file first: the status is sent before the content and has to show if that fails.
    first = await anext(content, b"")
    return Stream(
        _all(first, content),
        status_code=status,
        media_type="text/csv; charset=utf-8",
        headers={**headers, "Content-Length": str(size)},
    )


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def file_link(request: AnyRequest, report: Report, signature: str) -> str:
    """The link to the file of a report; its signature admits to it."""
    return f"{address(request).url}/api/v1/reports/{report.id}/file?signature={signature}"


def _span(byte_range: str | None, size: int) -> range | None:
    """The bytes that `Range` asks for: None for the whole file, an empty range for one beyond its end.

    Several ranges, and a malformed header, give the whole file, as RFC 9110 allows.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (byte_range or "").replace(" ", ""), re.IGNORECASE)
    first, last = match.groups() if match else ("", "")
    if (not first and not last) or (first and last and int(first) > int(last)):
        return None
    if not first:
        return range(max(size - int(last), 0), size)
    return range(int(first), min(int(last) + 1, size) if last else size)


reports_router = Router(
    "/reports", tags=["Reports"], route_handlers=[order_report, get_report, get_report_file]
)
