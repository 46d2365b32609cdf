"""The one table of problems: error → kind, title, HTTP and gRPC status. Every door reads it."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from segmentd.domain import errors


class Problem(NamedTuple):
    """An error as clients see it (RFC 9457); `retry_after` in whole seconds, if a retry may help."""

    kind: str
    title: str
    status: int
    grpc_status: str
    retry_after: int | None = None

    @property
    def type(self) -> str:
        """The relative URI that names the kind."""
        return f"/problems/{self.kind}"


PROBLEMS: Final[Mapping[type[errors.SegmentdError], Problem]] = {
    errors.Invalid: Problem("validation", "The request is not acceptable", 422, "INVALID_ARGUMENT"),
    errors.TargetingKeyMissing: Problem(
        "targeting-key-missing", "Targeting key missing", 422, "INVALID_ARGUMENT"
    ),
    errors.NotFound: Problem("not-found", "Not found", 404, "NOT_FOUND"),
    errors.SegmentNotFound: Problem("segment-not-found", "Segment not found", 404, "NOT_FOUND"),
    errors.UserNotFound: Problem("user-not-found", "User not found", 404, "NOT_FOUND"),
    errors.ReportNotFound: Problem("report-not-found", "Report not found", 404, "NOT_FOUND"),
    errors.ImportNotFound: Problem("import-not-found", "Import not found", 404, "NOT_FOUND"),
    errors.Conflict: Problem("conflict", "Conflict", 409, "ALREADY_EXISTS"),
    errors.SegmentExists: Problem("segment-exists", "Segment exists", 409, "ALREADY_EXISTS"),
    errors.SegmentHasPercentage: Problem(
        "segment-has-percentage", "Segment has a percentage", 409, "FAILED_PRECONDITION"
    ),
    errors.UserExists: Problem("user-exists", "User exists", 409, "ALREADY_EXISTS"),
    errors.ReportNotReady: Problem(
        "report-not-ready", "Report not ready", 409, "FAILED_PRECONDITION", retry_after=1
    ),
    errors.ImportFinished: Problem("import-finished", "Import finished", 409, "FAILED_PRECONDITION"),
    errors.IdempotencyKeyReused: Problem(
        "idempotency-key-reused", "Idempotency key reused", 409, "FAILED_PRECONDITION"
    ),
    errors.IdempotencyKeyInUse: Problem(
        "idempotency-key-in-use", "Idempotency key in use", 409, "ABORTED", retry_after=1
    ),
    errors.Gone: Problem("gone", "Gone", 410, "OUT_OF_RANGE"),
    errors.ReportExpired: Problem("report-expired", "Report expired", 410, "NOT_FOUND"),
    errors.PositionExpired: Problem("position-expired", "Position expired", 410, "OUT_OF_RANGE"),
    errors.Denied: Problem("denied", "Denied", 403, "PERMISSION_DENIED"),
    errors.Unauthenticated: Problem("unauthenticated", "Not authenticated", 401, "UNAUTHENTICATED"),
    errors.Forbidden: Problem("forbidden", "Not allowed", 403, "PERMISSION_DENIED"),
    errors.ForeignOrigin: Problem("foreign-origin", "Foreign origin", 403, "PERMISSION_DENIED"),
    errors.FormExpired: Problem("form-expired", "Form expired", 403, "PERMISSION_DENIED"),
    errors.AnswerTooLarge: Problem("answer-too-large", "Answer too large", 413, "RESOURCE_EXHAUSTED"),
    errors.TooManyRequests: Problem(
        "too-many-requests", "Too many requests", 429, "RESOURCE_EXHAUSTED", retry_after=1
    ),
    errors.TooManyReports: Problem(
        "too-many-reports", "Too many reports", 429, "RESOURCE_EXHAUSTED", retry_after=5
    ),
    errors.ReportStoreFull: Problem(
        "report-store-full", "Report store full", 429, "RESOURCE_EXHAUSTED", retry_after=600
    ),
    errors.TooManyImports: Problem(
        "too-many-imports", "Too many imports", 429, "RESOURCE_EXHAUSTED", retry_after=5
    ),
    errors.ImportStoreFull: Problem(
        "import-store-full", "Import store full", 429, "RESOURCE_EXHAUSTED", retry_after=60
    ),
    errors.TooManyExports: Problem(
        "too-many-exports", "Too many exports", 429, "RESOURCE_EXHAUSTED", retry_after=5
    ),
    errors.Unavailable: Problem("unavailable", "Unavailable", 503, "UNAVAILABLE", retry_after=1),
    errors.Overloaded: Problem("overloaded", "Overloaded", 503, "UNAVAILABLE", retry_after=1),
    errors.NoDatabase: Problem("no-database", "No database here", 501, "UNIMPLEMENTED"),
    errors.StartupFailed: Problem("internal", "Internal error", 500, "INTERNAL"),
    errors.SegmentdError: Problem("internal", "Internal error", 500, "INTERNAL"),
}

# Errors that only HTTP has, by status.
HTTP_PROBLEMS: Final[Mapping[int, Problem]] = {
    400: Problem("malformed", "Malformed request", 400, "INVALID_ARGUMENT"),
    404: PROBLEMS[errors.NotFound],
    405: Problem("method-not-allowed", "Method not allowed", 405, "UNIMPLEMENTED"),
    408: Problem("request-timeout", "Request timeout", 408, "DEADLINE_EXCEEDED"),
    413: Problem("body-too-large", "Body too large", 413, "RESOURCE_EXHAUSTED"),
    414: Problem("address-too-long", "Address too long", 414, "INVALID_ARGUMENT"),
    415: Problem("unsupported-media-type", "Unsupported media type", 415, "INVALID_ARGUMENT"),
    431: Problem("headers-too-large", "Headers too large", 431, "INVALID_ARGUMENT"),
    500: PROBLEMS[errors.SegmentdError],
    501: Problem("not-implemented", "Not implemented", 501, "UNIMPLEMENTED"),
}


def problem_of(error: type[errors.SegmentdError]) -> Problem:
    """The entry of an error, or of its nearest ancestor that has one."""
    return next(PROBLEMS[ancestor] for ancestor in error.__mro__ if ancestor in PROBLEMS)
