"""Errors as answers: problem documents (RFC 9457), or failures of OFREP."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, HTTPScope, Scope

from segmentd.api.http.edge.problem_documents import Document, document, headers_of
from segmentd.api.http.ofrep.failures import is_below_ofrep
from segmentd.api.http.types import AnyRequest, Ids
from segmentd.api.problems import HTTP_PROBLEMS, Problem, problem_of
from segmentd.domain.errors import Fault, Invalid, SegmentdError, TargetingKeyMissing, Unauthenticated
from segmentd.domain.wording import in_words

LARGEST_BODY_BYTES: Final = 2**20

# Better words than the framework's.
DETAILS: Final[Mapping[int, str]] = {
    404: "There is nothing at this address.",
    405: "This address does not take this method.",
    413: f"A body has {LARGEST_BODY_BYTES} bytes at most.",
}

_log = structlog.get_logger(__name__)


class ProblemAnswer(NamedTuple):
    """A problem as an answer; the headers are without those of its body."""

    document: Document
    headers: Mapping[str, str]


def problem_answer(
    scope: Scope,
    problem: Problem,
    detail: str,
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemAnswer:
    """The problem as an answer to this request; `extra` has the members that the kind adds."""
    scope["state"]["problem"] = problem.kind  # for the metrics
    request_id = scope["state"].get("request_id")
    return ProblemAnswer(
        document(scope["path"], problem, detail, request_id, extra),
        {**headers_of(problem), **(headers or {})},
    )


def refusal(scope: Scope, error: SegmentdError, ids: Ids = Ids.NUMBER) -> ProblemAnswer:
    """The answer for an error of the use cases."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="segmentd"' + (
            ', error="invalid_token"' if error.was_refused else ""
        )
    extra = error.extra
    if "user_id" in extra and ids is Ids.STRING:
        extra = {**extra, "user_id": str(extra["user_id"])}
    return problem_answer(scope, problem_of(type(error)), error.detail, extra, headers)


def failure(scope: HTTPScope, error: Exception) -> ProblemAnswer:
    """The answer for a bug: the log gets the stack trace, the answer gets nothing of it."""
    _log.error("request failed", method=scope["method"], path=scope["path"], exc_info=error)
    return problem_answer(
        scope, HTTP_PROBLEMS[500], "Something went wrong on our side; the log has the details."
    )


def refused(request: AnyRequest, error: SegmentdError) -> Response[bytes]:
    """Errors of the use cases."""
    ids = Ids.STRING if request.query_params.get("ids") == Ids.STRING else Ids.NUMBER
    return _response(refusal(request.scope, error, ids))


def invalid_parameter(request: AnyRequest, error: ValidationException) -> Response[bytes]:
    """A bad path or query parameter, or a missing body."""
    faults = faults_of(error)
    if not faults and is_below_ofrep(request.scope["path"]):
        return refused(request, TargetingKeyMissing())
    if not faults:
        missing = "The body is missing; a JSON object is expected."
        return _response(problem_answer(request.scope, HTTP_PROBLEMS[400], missing))
    return refused(request, Invalid(*faults))


def faults_of(error: ValidationException) -> list[Fault]:
    """The bad parameters; none if the body is missing."""
    return [
        # In a URL everything is a string, so "not a string" would help nobody.
        Fault(f"/{item.get('key', '')}", in_words(str(item.get("message", ""))).partition(", not ")[0])
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict) and item.get("key") != "data"
    ]


def http_error(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Errors that only HTTP has: an unknown path, a wrong method, broken JSON and the like."""
    problem = HTTP_PROBLEMS.get(error.status_code) or Problem(
        "http", "HTTP error", error.status_code, "UNKNOWN"
    )
    detail = DETAILS.get(error.status_code, error.detail)
    return _response(problem_answer(request.scope, problem, detail, headers=error.headers))


def failed(request: AnyRequest, error: Exception) -> Response[bytes]:
    """A bug."""
    return _response(failure(request.scope, error))


def _response(answer: ProblemAnswer) -> Response[bytes]:
    status, media_type, body = answer.document
    return Response(body, status_code=status, media_type=media_type, headers=dict(answer.headers))


EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {
    SegmentdError: refused,
    ValidationException: invalid_parameter,
    HTTPException: http_error,
    Exception: failed,
}
