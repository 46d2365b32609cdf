"""/ofrep/v1: segments as flags of OpenFeature."""

import re
from typing import Annotated, Final

from litestar import Response, Router, post
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter

from segmentd.api.http.documented import OFREP_FAILURES
from segmentd.api.http.edge.addresses import address
from segmentd.api.http.edge.compression import UNCOMPRESSED
from segmentd.api.http.edge.guard import TAKES_API_KEY
from segmentd.api.http.ofrep.answers import PRIVATE, is_named
from segmentd.api.http.ofrep.contexts import ContextJson, EvaluationRequest
from segmentd.api.http.ofrep.events import event_links, watch_flags
from segmentd.api.http.ofrep.failures import FLAGS
from segmentd.api.http.ofrep.flags import Flag, Flags, FlagWriter, written_flag
from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.domain.errors import SegmentNotFound
from segmentd.domain.identifiers import SLUG, Slug

# The hot path answers these as well, with the same bytes.
_OPTIONS: Final = {UNCOMPRESSED: True, TAKES_API_KEY: True, OFREP_FAILURES: True}

_writer: Final = FlagWriter()


@post(
    f"{FLAGS}/{{key:str}}",
    status_code=200,
    dto=ContextJson,
    opt=_OPTIONS,
    responses={200: ResponseSpec(Flag, generate_examples=False, description="the flag")},
)
async def evaluate_flag(
    key: Annotated[str, PathParameter(description="a segment's slug")],
    data: JSONBody[EvaluationRequest],
    service: UseCases,
) -> Response[bytes]:
    """Evaluate a segment as a boolean flag: whether the user of the context is in it."""
    if not re.search(SLUG.pattern, key):
        raise SegmentNotFound([key])
    age, decision = await service.decide(data.user_id, Slug(key))
    return _answer(written_flag(f'"{key}"'.encode(), decision), age)


@post(
    FLAGS,
    status_code=200,
    dto=ContextJson,
    opt=_OPTIONS,
    responses={
        200: ResponseSpec(Flags, generate_examples=False, description="the flags"),
        304: ResponseSpec(None, generate_examples=False, description="the flags are those known"),
    },
)
async def evaluate_flags(
    request: AnyRequest,
    data: JSONBody[EvaluationRequest],
    service: UseCases,
    none_match: Annotated[
        str | None, HeaderParameter(name="If-None-Match", description="the ETag of an earlier answer")
    ] = None,
) -> Response[bytes]:
    """Evaluate all living segments as flags. `eventStreams` links to events that say when they change."""
    age, decisions = await service.decide_all(data.user_id)
    written = _writer.prepared(decisions)
    answer = written.answer(data.user_id, decisions.codes, event_links(request), address(request).prefix)
    if none_match is not None and is_named(none_match, answer.etag):
        return _answer(b"", age, answer.etag, 304)
    return _answer(answer.body(), age, answer.etag)


def _answer(body: bytes, age: int, etag: bytes | None = None, status: int = 200) -> Response[bytes]:
    headers = {"Age": str(age), "Cache-Control": PRIVATE.decode()}
    if etag is not None:
        headers["ETag"] = etag.decode()
    return Response(body, status_code=status, media_type=MediaType.JSON, headers=headers)


ofrep_router = Router("/", tags=["OpenFeature"], route_handlers=[evaluate_flag, evaluate_flags, watch_flags])
