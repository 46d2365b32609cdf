"""Refusals as bytes, for every module that sends one: problem documents (RFC 9457), or OFREP's failures."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from segmentd.api.http.ofrep.failures import failure, is_below_ofrep
from segmentd.api.problems import Problem

PROBLEM_JSON: Final = "application/problem+json"

# An answer that must not be cached, shown in a frame, or interpreted as another type.
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Document(NamedTuple):
    """What answers a refused request."""

    status: int
    media_type: str
    body: bytes


def document(
    path: str,
    problem: Problem,
    detail: str,
    request_id: str | None,
    extra: Mapping[str, object] | None = None,
) -> Document:
    """For a request to this path; `extra` has the members that the kind adds."""
    if is_below_ofrep(path):
        status, body = failure(path, problem, detail)
        return Document(status, "application/json", body)
    members: dict[str, object] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        **(extra or {}),
    }
    if request_id is not None:
        members["request_id"] = request_id
    return Document(problem.status, PROBLEM_JSON, msgspec.json.encode(members))


def headers_of(problem: Problem) -> Mapping[str, str]:
    """The headers of every answer with this problem, besides those of its body."""
    retry = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    return {**SECURITY_HEADERS, **retry}


def last_answer(path: str, problem: Problem, detail: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A whole answer with these headers too, after which the connection ends."""
    refusal = document(path, problem, detail, None)
    whole = [*headers, *head(problem, refusal), (b"connection", b"close")]
    lines = b"".join([b"%b: %b\r\n" % header for header in whole])
    status = HTTPStatus(refusal.status)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), lines, refusal.body)


def head(problem: Problem, refusal: Document) -> Sequence[tuple[bytes, bytes]]:
    """The headers of such an answer, in the form of ASGI."""
    headers = {
        "Content-Type": refusal.media_type,
        "Content-Length": str(len(refusal.body)),
        **headers_of(problem),
    }
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
