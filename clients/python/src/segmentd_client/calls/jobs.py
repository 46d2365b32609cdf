"""Calls of /imports, /reports, GET /changes and the probes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from segmentd_client.core import Call, decoded, encoded, in_utc, nothing, path, query
from segmentd_client.jobs import ChangesPage, Import, ImportPage, Report

ImportOperation = Literal["add", "remove", "replace"]
FileFormat = Literal["csv", "ndjson"]

MEDIA_TYPES: Final[Mapping[FileFormat, str]] = {"csv": "text/csv", "ndjson": "application/x-ndjson"}

LONGEST_WAIT_S: Final = 60
"""How long the service holds an answer back, at most."""

_IMPORT: Final = decoded(Import)
_IMPORTS: Final = decoded(ImportPage)
_REPORT: Final = decoded(Report)
_CHANGES: Final = decoded(ChangesPage)


def create_import(
    asked: Mapping[str, str], file_format: FileFormat, key: str, *, is_gzipped: bool, wait_s: int
) -> Call[Import]:
    """The body is a stream that the client adds. With the key it can be sent again."""
    headers = {"content-type": MEDIA_TYPES[file_format], "idempotency-key": key, **prefer(wait_s)}
    if is_gzipped:
        headers["content-encoding"] = "gzip"
    return Call("POST", path("imports"), _IMPORT, asked, headers, can_repeat=True, wait_s=wait_s)


def import_page(limit: int | None, cursor: str | None) -> Call[ImportPage]:
    return Call("GET", path("imports"), _IMPORTS, query(limit=limit, cursor=cursor), can_repeat=True)


def get_import(import_id: str) -> Call[Import]:
    return Call("GET", path("imports", import_id), _IMPORT, can_repeat=True)


def import_errors(import_id: str) -> Call[None]:
    """The answer is a stream, so only its refusals are read."""
    accept = {"accept": "application/x-ndjson, application/problem+json"}
    return Call("GET", path("imports", import_id, "errors"), nothing, headers=accept, can_repeat=True)


def cancel_import(import_id: str) -> Call[Import]:
    return Call("DELETE", path("imports", import_id), _IMPORT)


def order_report(
    month: str | None,
    begin: datetime | None,
    end: datetime | None,
    user_id: int | None,
    segment: str | None,
    *,
    header: bool,
    wait_s: int,
) -> Call[Report]:
    for moment in (begin, end):
        if moment is not None:
            in_utc(moment)
    given = {"month": month, "from": begin, "to": end, "user_id": user_id, "segment": segment}
    body = {name: value for name, value in given.items() if value is not None}
    body |= {"header": True} if header else {}
    return Call("POST", path("reports"), _REPORT, headers=prefer(wait_s), body=encoded(body), wait_s=wait_s)


def get_report(report_id: str) -> Call[Report]:
    return Call("GET", path("reports", report_id), _REPORT, can_repeat=True)


def report_file(report_id: str, signature: str) -> Call[None]:
    """The answer is a stream, so only its refusals are read."""
    asked = query(signature=signature)
    accept = {"accept": "text/csv, application/problem+json"}
    return Call("GET", path("reports", report_id, "file"), nothing, asked, accept, can_repeat=True)


def changes(
    after: str, limit: int | None, wait_s: int, segment: str | None, user_id: int | None
) -> Call[ChangesPage]:
    asked = query(after=after, limit=limit, wait=wait_s or None, segment=segment, user_id=user_id)
    return Call("GET", path("changes"), _CHANGES, asked, can_repeat=True, wait_s=wait_s)


def ready() -> Call[None]:
    return Call("GET", "/readyz", nothing, can_repeat=True)


def prefer(wait_s: int) -> dict[str, str]:
    """The header that asks the service to hold its answer back for so many seconds."""
    return {"prefer": f"wait={wait_s}"} if wait_s else {}
