"""Examples of bodies for the OpenAPI document, from one story; tests compare each with its schema."""

from collections.abc import Mapping
from typing import Final

_VOICE: Final = "AVITO_VOICE_MESSAGES"
_SALE: Final = "AVITO_DISCOUNT_30"
_ADDED_AT: Final = "2026-11-20T10:15:30.123456Z"
_UNTIL: Final = "2026-12-01T00:00:00.000000Z"
_NIGHT: Final = "2026-11-21T02:14:31.100001Z"
_ID: Final = "3d1f7c52-6a0e-4d8b-9b53-7c1f2a9e4d04"
_HASH: Final = "9ea31ea55f9ac1df9372cc0189fd5da017e8d7deef1ece349a207e5b7f67b7cb"
_POSITION: Final = "c2VhbGVkkpPOB1vNFQHNGcHAwA"

_SEGMENT: Final = {
    "slug": _VOICE,
    "description": "voice messages in the chat",
    "percent": 10,
    "salt": "22",
    "created_at": _ADDED_AT,
}
_USER: Final = {"id": 1000, "name": "Anna", "registered_at": _ADDED_AT}
_CHANGED: Final = {
    "user_id": 1000,
    "segments": [_SALE, _VOICE],
    "added": [_SALE],
    "removed": [],
    "updated": [],
    "unchanged": [_VOICE],
}
_EVENT: Final = {
    "segment": _SALE,
    "operation": "add",
    "at": _ADDED_AT,
    "source": "explicit",
    "cause": "request",
    "actor": "web-shop",
    "on_behalf_of": None,
    "reason": "ticket 4711",
    "until": _UNTIL,
}
_IMPORT: Final = {
    "id": _ID,
    "status": "done",
    "operation": "add",
    "segment": _SALE,
    "dry_run": False,
    "rows": 3,
    "invalid_rows": 0,
    "users": 3,
    "applied_users": 3,
    "added": 2,
    "removed": 0,
    "updated": 0,
    "unchanged": 1,
    "errors": [],
    "sample": [],
    "reason": "nightly list",
    "detail": None,
    "sha256": _HASH,
    "created_at": _NIGHT,
    "finished_at": _NIGHT,
}
_FLAG: Final = {
    "key": _VOICE,
    "value": True,
    "variant": "on",
    "reason": "SPLIT",
    "metadata": {"source": "rollout"},
}

SCHEMAS: Final[Mapping[str, object]] = {
    # What callers send.
    "SegmentCreation": {"slug": _VOICE, "description": "voice messages in the chat", "percent": 10},
    "SegmentPatch": {"percent": 25},
    "PreviewRequest": {"percent": 25},
    "Registration": {"id": 1000, "name": "Anna"},
    "MembershipChange": {
        "add": [_VOICE, {"slug": _SALE, "ttl_seconds": 172800}],
        "remove": ["AVITO_DISCOUNT_50"],
        "reason": "ticket 4711",
    },
    "ChangesRequest": {
        "changes": [{"user_id": 1000, "add": [_SALE]}, {"user_id": 1002, "remove": [_SALE]}],
        "reason": "autumn sale",
    },
    "LookupRequest": {"user_ids": [1000, 1002]},
    "Order": {"month": "2026-11"},
    "EvaluationRequest": {"context": {"targetingKey": "1000"}},
    # What they get.
    "SegmentBody": _SEGMENT,
    "SegmentPage": {"segments": [_SEGMENT], "next_cursor": None},
    "MemberPage": {"user_ids": [1000, 1002], "next_cursor": None},
    "CountsBody": {
        "slug": _VOICE,
        "at": _NIGHT,
        "registered": 1000000,
        "members": 100350,
        "explicit": 1500,
        "excluded": 900,
        "covered": 99980,
    },
    "PreviewBody": {
        "percent_before": 10,
        "percent_after": 25,
        "registered": 1000000,
        "enter": 149800,
        "leave": 0,
        "stay": 100350,
        "pinned": 1500,
        "excluded": 900,
        "sample_enter": [1001, 1007],
        "sample_leave": [],
    },
    "UserBody": _USER,
    "UserPage": {"users": [_USER], "next_cursor": None},
    "UserSegmentsBody": {"user_id": 1000, "segments": [_SALE, _VOICE]},
    "ChangedBody": _CHANGED,
    "ChangesBody": {"changes": [_CHANGED]},
    "ExplanationBody": {
        "user_id": 1000,
        "slug": _VOICE,
        "member": True,
        "because": "rollout",
        "since": _ADDED_AT,
        "until": None,
        "percent": 10,
        "bucket": 41023,
        "threshold": 100000,
        "salt": "22",
    },
    "HistoryPage": {"user_id": 1000, "events": [_EVENT], "next_cursor": None},
    "LookupBody": {
        "users": [{"user_id": 1000, "segments": [_SALE, _VOICE]}, {"user_id": 1002, "segments": []}]
    },
    "ChangesPage": {
        "changes": [
            {
                "position": _POSITION,
                "kind": "membership",
                "user_id": 1000,
                "segment": _SALE,
                "operation": "add",
                "at": _ADDED_AT,
                "cause": "request",
                "actor": "web-shop",
                "on_behalf_of": None,
                "reason": "ticket 4711",
                "until": _UNTIL,
            }
        ],
        "next": _POSITION,
    },
    "ReportBody": {
        "id": _ID,
        "status": "done",
        "url": f"https://segments.example/api/v1/reports/{_ID}/file?signature={_POSITION}",
        "rows": 2,
        "sha256": _HASH,
        "as_of": _NIGHT,
        "created_at": _NIGHT,
        "expires_at": "2026-11-28T02:14:31.100001Z",
        "reason": None,
    },
    "ImportBody": _IMPORT,
    "ImportPage": {"imports": [_IMPORT], "next_cursor": None},
    "AuditPage": {
        "entries": [
            {
                "at": _ADDED_AT,
                "actor": "admin",
                "on_behalf_of": None,
                "operation": "segment-changed",
                "subject": _VOICE,
                "before": {"percent": 10},
                "after": {"percent": 25},
            }
        ],
        "next_cursor": None,
    },
    "Flag": _FLAG,
    "Flags": {"flags": [_FLAG], "eventStreams": []},
    "Health": {"status": "ok"},
    "ProblemBody": {
        "type": "/problems/segment-not-found",
        "title": "No such segment",
        "status": 404,
        "detail": "There is no segment AVITO_SPRING.",
        "segments": ["AVITO_SPRING"],
        "request_id": "e653bf38-4224-4918-b5e1-000000000004",
    },
    "EvaluationFailure": {
        "key": _VOICE,
        "errorCode": "INVALID_CONTEXT",
        "errorDetails": "targetingKey is not the id of a user",
    },
}
"""Examples of whole bodies, by schema."""

STREAMS: Final[Mapping[str, str]] = {
    "get_report_file": f"1000;{_SALE};add;{_ADDED_AT}\n1000;{_SALE};remove;{_UNTIL}\n",
    "list_import_errors": '{"line":2,"detail":"AVITO_SPRING is no segment","text":"1002,AVITO_SPRING"}\n',
    "watch_flags": 'id: 7\ndata: {"type":"refetchEvaluation"}\n\n',
}
"""Examples of answers that are not JSON, by operation, where the route has none."""
