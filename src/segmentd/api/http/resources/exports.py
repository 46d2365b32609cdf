"""/segments/{slug}/export: everybody in a segment, as a stream."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Final

from litestar import Router, get
from litestar.params import QueryParameter
from litestar.types import ASGIApp

from segmentd.api.http.documented import STREAMED, problems
from segmentd.api.http.edge.compression import gzipped, takes_gzip
from segmentd.api.http.edge.download import Content, Download
from segmentd.api.http.types import (
    AnyRequest,
    Ids,
    IdsParameter,
    InstantParameter,
    SlugParameter,
    UseCases,
    instant,
)
from segmentd.domain.errors import Fault, Gone, Invalid, SegmentNotFound, TooManyExports
from segmentd.domain.exports import ExportFormat, ExportOrder
from segmentd.domain.instants import rfc3339
from segmentd.service import Service

_MEDIA_TYPES: Final[Mapping[ExportFormat, str]] = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.NDJSON: "application/x-ndjson",
}
_EXAMPLES: Final = {
    "text/csv": (
        "1000;rollout;2026-11-21T02:12:52.229707Z;\n"
        "1002;explicit;2026-11-21T02:13:20.315846Z;2026-12-01T00:00:00.000000Z\n"
    ),
    "application/x-ndjson": (
        '{"user_id":1000,"source":"rollout","since":"2026-11-21T02:12:52.229707Z","until":null}\n'
        '{"user_id":1002,"source":"explicit","since":"2026-11-21T02:13:20.315846Z",'
        '"until":"2026-12-01T00:00:00.000000Z"}\n'
    ),
}


@get(
    "/{slug:str}/export", opt={STREAMED: _EXAMPLES}, responses=problems(SegmentNotFound, Gone, TooManyExports)
)
async def export_segment(
    request: AnyRequest,
    slug: SlugParameter,
    service: UseCases,
    *,
    format: Annotated[  # noqa: A002 - the parameter's name
        ExportFormat, QueryParameter(description="csv, or ndjson: one JSON object a line")
    ] = ExportFormat.CSV,
    at: InstantParameter = None,
    header: Annotated[
        bool, QueryParameter(description="csv: with a first line that names the columns")
    ] = False,
    ids: IdsParameter = Ids.NUMBER,
) -> ASGIApp:
    """Export everybody in the segment, as of one instant. The lines are in the order of the user ids.

    The answer is a stream of lines: user_id;source;since;until. It costs a walk through the segment's
    members, or through all users where there is a percentage. Each process sends two at once, for half an
    hour at most, unless set otherwise. An answer that breaks off has no end: the last chunk is missing, and
    the connection is reset.
    """
    if header and format is not ExportFormat.CSV:
        raise Invalid(Fault("/header", "only csv has a header"))
    order = ExportOrder(slug, instant("at", at), format, header, text_ids=ids is Ids.STRING)
    packs = takes_gzip(request.headers.get("Accept-Encoding", ""))
    return Download(exported(service, order, packs=packs))


@asynccontextmanager
async def exported(service: Service, order: ExportOrder, *, packs: bool) -> AsyncIterator[Content]:
    """The lines and their headers, with gzip if `packs`. Raises what Exports.open does."""
    async with service.exports.open(order) as (as_of, chunks):
        # Windows has no colons in names of files.
        name = f"{order.slug}-{rfc3339(as_of).replace(':', '.')}.{order.format}"
        headers = {
            "Content-Type": _MEDIA_TYPES[order.format],
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-cache",
        }
        if not packs:
            yield Content(headers, chunks)
            return
        async with aclosing(gzipped(chunks)) as packed:
            yield Content({**headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}, packed)


exports_router = Router("/segments", tags=["Segments"], route_handlers=[export_segment])
