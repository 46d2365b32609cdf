"""Refusals in the form of OFREP, which has fewer statuses than the rest of the API.

OFREP 0.3: service/openapi.yaml of github.com/open-feature/protocol.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from segmentd.api.problems import Problem

BELOW: Final = "/ofrep/"
FLAGS: Final = "/ofrep/v1/evaluate/flags"

_STATUSES: Final = frozenset({401, 403, 404, 429, 500, 503})
_CODES: Final = {
    "segment-not-found": "FLAG_NOT_FOUND",
    "targeting-key-missing": "TARGETING_KEY_MISSING",
    "validation": "INVALID_CONTEXT",
}


class EvaluationFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no evaluation."""

    error_code: Annotated[
        str,
        Meta(
            description="PARSE_ERROR, TARGETING_KEY_MISSING, INVALID_CONTEXT, FLAG_NOT_FOUND or GENERAL",
            examples=["INVALID_CONTEXT"],
        ),
    ] = msgspec.field(name="errorCode")
    error_details: Annotated[str, Meta(description="the same for people")] = msgspec.field(
        name="errorDetails"
    )
    key: Annotated[str | None, Meta(description="the flag, where one was asked for")] = None


def is_below_ofrep(path: str) -> bool:
    """Whether refusals at this path, as it is without escapes, have OFREP's form."""
    return path.startswith(BELOW)


def failure(path: str, problem: Problem, detail: str) -> tuple[int, bytes]:
    """The status and the body that stand for a problem at this path."""
    key = path[len(FLAGS) + 1 :] if path.startswith(f"{FLAGS}/") else None
    # What else the client may have done wrong is a bad request.
    status = problem.status if problem.status in _STATUSES else 400
    code = _CODES.get(problem.kind) or _code(status, key)
    return status, msgspec.json.encode(EvaluationFailure(code, detail, key))


def _code(status: int, key: str | None) -> str:
    match status:
        case 400:
            return "PARSE_ERROR"
        case 404 if key is not None:
            return "FLAG_NOT_FOUND"
        case _:
            return "GENERAL"
