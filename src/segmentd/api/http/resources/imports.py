"""/imports: bring a list of users, see how far it is, read its bad rows, stop it."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.exceptions import ClientException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIMediaType, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta, Struct

from segmentd.api.http.content import is_gzipped, media_type
from segmentd.api.http.documented import problems
from segmentd.api.http.edge.addresses import location
from segmentd.api.http.edge.guard import actor
from segmentd.api.http.prefer import preferred_wait
from segmentd.api.http.types import (
    AnyRequest,
    CursorParameter,
    Ids,
    IdsParameter,
    InstantParameter,
    InstantText,
    LimitParameter,
    UseCases,
    WrittenId,
    bounds,
    instant,
    instant_text,
)
from segmentd.domain.errors import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    ImportFinished,
    ImportNotFound,
    ImportStoreFull,
    SegmentHasPercentage,
    SegmentNotFound,
    TooManyImports,
    read,
)
from segmentd.domain.identifiers import Slug, SlugValue
from segmentd.domain.imports import (
    BadRow,
    Difference,
    FileFormat,
    Import,
    ImportOperation,
    ImportOrder,
    Outcome,
    Status,
    read_idempotency_key,
    read_import_id,
)
from segmentd.domain.instants import rfc3339
from segmentd.domain.memberships import TtlSeconds, TtlValue
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.texts import Reason, ReasonValue
from segmentd.imports.receive import BodyBrokeOff, Upload

NDJSON: Final = "application/x-ndjson"
FORMATS: Final = {"text/csv": FileFormat.CSV, NDJSON: FileFormat.NDJSON}

ImportIdParameter = Annotated[
    str, PathParameter(description="from the answer that began it", schema_extra={"format": "uuid"})
]
_ROWS: Final = RequestBody(
    description="The rows, of any length, as they are or with `Content-Encoding: gzip`. In CSV the separator"
    " is `,`, `;` or a tab; a first line whose first value is no number names the columns `user_id`,"
    " `segment`, `operation`, `until` and `ttl_seconds` in any order, and others are ignored; without it the"
    " columns are those of a report. In NDJSON the names stand in each object.",
    content={
        "text/csv": OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.STRING),
            examples={
                "users": Example(summary="users, for ?segment=…", value="user_id\n1000\n1002\n"),
                "rows": Example(
                    summary="rows that say everything",
                    value="user_id;segment;operation;ttl_seconds\n1000;AVITO_DISCOUNT_50;add;172800\n"
                    "1002;AVITO_DISCOUNT_30;remove;\n",
                ),
            },
        ),
        NDJSON: OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.STRING),
            example='{"user_id": 1000, "segment": "AVITO_DISCOUNT_50", "ttl_seconds": 172800}\n',
        ),
    },
    required=True,
)


class DifferenceBody(Struct, frozen=True):
    """What a dry run found for one user and one segment."""

    user_id: WrittenId
    segment: Slug
    outcome: Outcome

    @classmethod
    def of(cls, difference: Difference, ids: Ids) -> "DifferenceBody":
        return cls(ids.write(difference.user_id), difference.segment, difference.outcome)


class ImportBody(Struct, frozen=True):
    """An import. The four counts are of users and segments; `errors` and `sample` have the first 100."""

    id: str
    status: Status
    operation: ImportOperation
    segment: Slug | None
    dry_run: bool
    rows: int
    invalid_rows: int
    users: Annotated[int | None, Meta(description="null until the rows are checked")]
    applied_users: int
    added: int
    removed: int
    updated: int
    unchanged: int
    errors: Sequence[BadRow]
    sample: Annotated[Sequence[DifferenceBody], Meta(description="of a dry run: its first differences")]
    reason: str | None
    detail: Annotated[str | None, Meta(description="why it failed")]
    sha256: Annotated[str | None, Meta(description="of the rows, before any compression")]
    created_at: InstantText
    finished_at: InstantText | None

    @classmethod
    def of(cls, found: Import, ids: Ids) -> "ImportBody":
        return cls(
            str(found.id),
            found.status,
            found.operation,
            found.segment,
            found.dry_run,
            found.rows,
            found.invalid_rows,
            found.users,
            found.applied_users,
            found.added,
            found.removed,
            found.updated,
            found.unchanged,
            found.errors,
            [DifferenceBody.of(difference, ids) for difference in found.sample],
            found.reason,
            found.detail,
            found.sha256,
            rfc3339(found.created_at),
            instant_text(found.finished_at),
        )


class ImportPage(Struct, frozen=True):
    """Imports, the newest first."""

    imports: Sequence[ImportBody]
    next_cursor: str | None


@post(
    "/",
    status_code=202,
    request_max_body_size=None,
    opt={"body": _ROWS},
    responses={
        200: ResponseSpec(ImportBody, generate_examples=False, description="final in time"),
        **problems(
            SegmentNotFound,
            SegmentHasPercentage,
            IdempotencyKeyReused,
            IdempotencyKeyInUse,
            TooManyImports,
            ImportStoreFull,
        ),
    },
)
async def create_import(  # noqa: PLR0913 - each is a parameter of the query, or a header
    request: AnyRequest,
    service: UseCases,
    *,
    segment: Annotated[
        Slug | None, QueryParameter(**bounds(SlugValue), description="of rows that name none")
    ] = None,
    operation: Annotated[
        ImportOperation, QueryParameter(description="of rows that name none; replace needs `segment`")
    ] = ImportOperation.ADD,
    until: InstantParameter = None,
    ttl_seconds: Annotated[
        TtlSeconds | None, QueryParameter(**bounds(TtlValue), description="of rows that name no term")
    ] = None,
    reason: Annotated[
        Reason | None, QueryParameter(**bounds(ReasonValue), description="of all changes, for the history")
    ] = None,
    dry_run: Annotated[bool, QueryParameter(description="true: count, change nothing")] = False,
    skip_invalid: Annotated[
        bool, QueryParameter(description="true: apply the good rows even if others are bad")
    ] = False,
    prefer: Annotated[str | None, HeaderParameter(name="Prefer", description="wait=10: seconds")] = None,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            description="the same key, parameters and body again, within 7 days, give the first import",
        ),
    ] = None,
    ids: IdsParameter = Ids.NUMBER,
) -> Response[ImportBody]:
    """Change any number of users by a list. The rows of one user are one change; the rest is done afterwards.

    The answer comes when all rows are received. One bad row fails the import before anything is changed,
    unless `skip_invalid`. With `Prefer: wait=N` the answer waits for the end of the import; if it cannot
    wait, it is 202 with the import as it is then.
    """
    file_format = FORMATS[media_type(request.headers.getall("content-type", []), [*FORMATS])]
    order = ImportOrder(
        operation,
        segment,
        instant("until", until),
        ttl_seconds,
        reason,
        dry_run,
        skip_invalid,
        file_format,
    )
    key = None if idempotency_key is None else read(read_idempotency_key, idempotency_key, "/Idempotency-Key")
    upload = Upload(
        received_body(request),
        is_gzipped(request.headers.getall("content-encoding", [])),
        request.content_length or 0,
    )
    seconds = preferred_wait(prefer)
    try:
        found = await service.imports.bring(order, upload, actor(request), key, seconds)
    except BodyBrokeOff:
        raise ClientException("The body broke off.") from None
    headers = {"Location": location(request, f"/api/v1/imports/{found.id}")}
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    return Response(
        ImportBody.of(found, ids), status_code=200 if seconds and found.status.final else 202, headers=headers
    )


async def received_body(request: AnyRequest) -> AsyncIterator[bytes]:
    """The bytes as they come. Raises BodyBrokeOff if the client goes away."""
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise BodyBrokeOff
        if message["body"]:
            yield message["body"]
        if not message["more_body"]:
            return


@get("/")
async def list_imports(
    service: UseCases,
    limit: LimitParameter = USUAL_PAGE,
    cursor: CursorParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> ImportPage:
    """List the imports, the newest first. A page is shorter than its limit where many rows are bad."""
    page = await service.imports.list(limit, cursor)
    return ImportPage([ImportBody.of(each, ids) for each in page.items], page.next_cursor)


@get("/{import_id:str}", responses=problems(ImportNotFound))
async def get_import(
    import_id: ImportIdParameter, service: UseCases, ids: IdsParameter = Ids.NUMBER
) -> ImportBody:
    """Read one import, with its progress."""
    return ImportBody.of(await service.imports.get(read_import_id(import_id)), ids)


@get("/{import_id:str}/errors", media_type=NDJSON, responses=problems(ImportNotFound))
async def list_import_errors(import_id: ImportIdParameter, service: UseCases) -> Stream:
    """Read every bad row of an import, one object a line: line, what is wrong, the beginning of the text."""
    rows = service.imports.bad_rows(read_import_id(import_id))
    # The first rows before the answer begins: its status has to show if there is no such import.
    return Stream(bad_row_lines(await anext(rows, []), rows), media_type=NDJSON)


async def bad_row_lines(
    first: Sequence[BadRow], more: AsyncIterator[Sequence[BadRow]]
) -> AsyncIterator[bytes]:
    """Bad rows as lines of JSON: the first ones, and then the others."""
    encoder = msgspec.json.Encoder()
    yield encoder.encode_lines(first)
    async for rows in more:
        yield encoder.encode_lines(rows)


@delete("/{import_id:str}", status_code=200, responses=problems(ImportNotFound, ImportFinished))
async def cancel_import(
    request: AnyRequest, import_id: ImportIdParameter, service: UseCases, ids: IdsParameter = Ids.NUMBER
) -> ImportBody:
    """Stop an import after the batch in hand. What was applied stays."""
    return ImportBody.of(await service.imports.cancel(read_import_id(import_id), actor(request)), ids)


imports_router = Router(
    "/imports",
    tags=["Imports"],
    route_handlers=[create_import, list_imports, get_import, list_import_errors, cancel_import],
)
