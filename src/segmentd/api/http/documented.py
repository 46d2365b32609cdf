"""What the OpenAPI document says of every route: its docstring as the summary, and its problems."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from msgspec import UNSET, Meta, Struct, UnsetType

from segmentd.api.http.edge.guard import TAKES_API_KEY, operation_of
from segmentd.api.http.edge.own_pages import SAFE_METHODS
from segmentd.api.http.edge.problem_documents import PROBLEM_JSON
from segmentd.api.http.ofrep.failures import EvaluationFailure
from segmentd.api.problems import HTTP_PROBLEMS, Problem, problem_of
from segmentd.api.roles import ROLES
from segmentd.domain.errors import (
    Forbidden,
    ForeignOrigin,
    Invalid,
    Overloaded,
    SegmentdError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

BEARER: Final = "bearer"
API_KEY: Final = "api_key"

OFREP_FAILURES: Final = "ofrep_failures"
"""A handler's opt: its refusals have OFREP's form."""

STREAMED: Final = "streamed"
"""A handler's opt: the media types in which its answer may be beside JSON, each with an example."""


class ProblemFault(Struct, frozen=True):
    """A bad value of the request."""

    pointer: Annotated[str, Meta(description="where it stands, RFC 6901", examples=["/add/1/ttl_seconds"])]
    detail: Annotated[str, Meta(description="what is wrong with it")]


class ProblemBody(Struct, frozen=True):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[
        str, Meta(pattern="^/problems/[a-z-]+$", description="the kind", examples=["/problems/validation"])
    ]
    title: Annotated[str, Meta(description="the kind, for people")]
    status: Annotated[int, Meta(description="the HTTP status")]
    detail: Annotated[str, Meta(description="what was wrong with this request")]
    errors: (
        Annotated[Sequence[ProblemFault], Meta(description="of the kind validation: each bad value")]
        | UnsetType
    ) = UNSET
    segments: (
        Annotated[Sequence[str], Meta(description="of the kind segment-not-found: every unknown slug")]
        | UnsetType
    ) = UNSET
    slug: Annotated[str, Meta(description="of the kind segment-exists")] | UnsetType = UNSET
    most_bytes: Annotated[int, Meta(description="of the kind answer-too-large")] | UnsetType = UNSET
    user_id: Annotated[int | str, Meta(description="of the kinds about users")] | UnsetType = UNSET
    role: Annotated[str, Meta(description="of the kind forbidden: what is needed")] | UnsetType = UNSET
    request_id: Annotated[str, Meta(description="names the request in the log")] | UnsetType = UNSET


def problems(*errors: type[SegmentdError]) -> Mapping[int, ResponseSpec]:
    """`responses=problems(SegmentNotFound)` on a route: its own errors, beside those of every route."""
    return _specs([problem_of(error) for error in errors])


class Documented(ReceiveRoutePlugin):
    """Completes what the OpenAPI document says of each route."""

    def receive_route(self, route: BaseRoute) -> None:
        """Adds the docstring's first sentence as the summary, and the problems of every such route."""
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if handler.resolve_include_in_schema():
                    _document(handler)


@dataclass
class _Operation(Operation):
    """An operation without the 400 that Litestar adds: this API answers a bad value with 422."""

    def __post_init__(self) -> None:
        response = (self.responses or {}).get("400")
        own = isinstance(response, OpenAPIResponse) and response.description == _FAILURES[400].description
        if isinstance(response, OpenAPIResponse) and not own and PROBLEM_JSON not in (response.content or {}):
            del (self.responses or {})["400"]


def _operation(body: RequestBody | None, streamed: Mapping[str, str]) -> type[_Operation]:
    """An operation with what Litestar does not know: a body that the handler reads itself, a stream."""

    @dataclass
    class Extended(_Operation):
        def __post_init__(self) -> None:
            super().__post_init__()
            if body is not None:
                self.request_body = body
            response = (self.responses or {}).get("200")
            if streamed and isinstance(response, OpenAPIResponse):
                described = (response.content or {}).items()
                response.content = {media: each for media, each in described if media == MediaType.JSON} | {
                    media_type: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING), example=example)
                    for media_type, example in streamed.items()
                }

    return Extended


def _document(handler: HTTPRouteHandler) -> None:
    handler.operation_class = _operation(handler.opt.get("body"), handler.opt.get(STREAMED, {}))
    handler.summary, _, more = (inspect.getdoc(handler.fn) or "").rstrip(".").partition(". ")
    needed = ROLES[operation_of(handler)]
    role = f"Needs the role `{needed}`." if needed else "Needs no token."
    handler.description = f"{more}. {role}" if more else role
    keys: list[dict[str, list[str]]] = (
        [{BEARER: []}, {API_KEY: []}] if handler.opt.get(TAKES_API_KEY) else [{BEARER: []}]
    )
    handler.security = keys if needed else []
    of_every = _FAILURES if handler.opt.get(OFREP_FAILURES) else _specs(_problems_of_every(handler))
    handler.responses = _both(of_every, handler.responses or {})


def _both(
    of_every: Mapping[int, ResponseSpec], own: Mapping[int, ResponseSpec]
) -> Mapping[int, ResponseSpec]:
    """The problems of every route and a route's own; a status in both has the kinds of both."""
    shared = {
        status: replace(spec, description=f"{of_every[status].description} or {spec.description}")
        for status, spec in own.items()
        if status in of_every
    }
    return {**of_every, **own, **shared}


def _problems_of_every(handler: HTTPRouteHandler) -> list[Problem]:
    parameters = handler.parsed_fn_signature.parameters
    has_body = "data" in parameters
    has_values = has_body or parameters.keys() - {"service", "actor", "request"}
    return [
        *(
            [problem_of(error) for error in (Unauthenticated, Forbidden, TooManyRequests)]
            if ROLES[operation_of(handler)]
            else []
        ),
        *([HTTP_PROBLEMS[400], HTTP_PROBLEMS[413], HTTP_PROBLEMS[415]] if has_body else []),
        *([HTTP_PROBLEMS[408], HTTP_PROBLEMS[415]] if "body" in handler.opt else []),
        *([problem_of(ForeignOrigin)] if handler.http_methods - SAFE_METHODS else []),
        *([problem_of(Invalid)] if has_values else []),
        *([problem_of(Unavailable), problem_of(Overloaded)] if "service" in parameters else []),
    ]


def _specs(problems: Sequence[Problem]) -> Mapping[int, ResponseSpec]:
    kinds: dict[int, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.status, []).append(problem.kind)
    return {
        status: ResponseSpec(
            ProblemBody,
            generate_examples=False,
            description=" or ".join(f"`{kind}`" for kind in kinds[status]),
            media_type=PROBLEM_JSON,
        )
        for status in kinds
    }


_FAILURES: Final[Mapping[int, ResponseSpec]] = {
    status: ResponseSpec(EvaluationFailure, generate_examples=False, description=description)
    for status, description in {
        400: "`PARSE_ERROR`, `TARGETING_KEY_MISSING` or `INVALID_CONTEXT`",
        401: "`GENERAL`: a token is needed",
        403: "`GENERAL`: not allowed",
        404: "`FLAG_NOT_FOUND`: no living segment has this slug",
        429: "`GENERAL`: too many requests",
        500: "`GENERAL`: an internal error",
        503: "`GENERAL`: the node's copy is too old, and the database is away",
    }.items()
}
