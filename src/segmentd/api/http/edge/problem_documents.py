"""Problem documents (RFC 9457) as bytes, for every module that sends one."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from segmentd.api.problems import Problem

PROBLEM_JSON: Final = "application/problem+json"

# An answer that must not be cached, shown in a frame, or interpreted as another type.
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def document(
    problem: Problem, detail: str, request_id: str | None, extra: Mapping[str, object] | None = None
) -> bytes:
    """The body; `extra` has the members that the kind adds."""
    members: dict[str, object] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        **(extra or {}),
    }
    if request_id is not None:
        members["request_id"] = request_id
    return msgspec.json.encode(members)


def headers_of(problem: Problem) -> Mapping[str, str]:
    """The headers of every answer with this problem, besides those of its body."""
    retry = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    return {**SECURITY_HEADERS, **retry}


def last_answer(problem: Problem, detail: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A whole answer with these headers too, after which the connection ends."""
    body = document(problem, detail, None)
    whole = [*headers, *head(problem, len(body)), (b"connection", b"close")]
    lines = b"".join([b"%b: %b\r\n" % header for header in whole])
    return b"%b%b\r\n%b" % (STATUS_LINE[problem.status], lines, body)


def head(problem: Problem, length: int) -> Sequence[tuple[bytes, bytes]]:
    """The headers of such an answer, in the form of ASGI."""
    headers = {"Content-Type": PROBLEM_JSON, "Content-Length": str(length), **headers_of(problem)}
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
