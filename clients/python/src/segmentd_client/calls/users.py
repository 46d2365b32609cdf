"""Calls of /users, /lookup, and POST /changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from segmentd_client.core import Answer, Call, decoded, encoded, in_utc, nothing, path, query
from segmentd_client.models import (
    AuditPage,
    Changed,
    Explanation,
    HistoryPage,
    Lookup,
    ManyChanged,
    Term,
    User,
    UserChange,
    UserMemberships,
    UserPage,
    UserSegments,
)

Addition = str | Term
"""A segment to add: a slug, or a slug with a term."""

_USER: Final = decoded(User)
_USERS: Final = decoded(UserPage)
_SEGMENTS: Final = decoded(UserSegments)
_MEMBERSHIPS: Final = decoded(UserMemberships)
_LOOKUP: Final = decoded(Lookup)
_CHANGED: Final = decoded(Changed)
_MANY: Final = decoded(ManyChanged)
_EXPLANATION: Final = decoded(Explanation)
_HISTORY: Final = decoded(HistoryPage)
_AUDIT: Final = decoded(AuditPage)


def register(user_id: int | None, name: str | None) -> Call[User]:
    given = {"id": user_id, "name": name}
    body = encoded({key: value for key, value in given.items() if value is not None})
    return Call("POST", path("users"), _USER, body=body)


def page(limit: int | None, cursor: str | None) -> Call[UserPage]:
    return Call("GET", path("users"), _USERS, query(limit=limit, cursor=cursor), can_repeat=True)


def get(user_id: int) -> Call[User]:
    return Call("GET", path("users", user_id), _USER, can_repeat=True)


def delete(user_id: int, *, erase: bool) -> Call[None]:
    return Call("DELETE", path("users", user_id), nothing, query(erase=erase or None))


def segments(user_id: int, at: datetime | None) -> Call[UserSegments]:
    return Call("GET", path("users", user_id, "segments"), _aged_segments, query(at=at), can_repeat=True)


def memberships(user_id: int, at: datetime | None) -> Call[UserMemberships]:
    asked = query(detail=True, at=at)
    return Call("GET", path("users", user_id, "segments"), _MEMBERSHIPS, asked, can_repeat=True)


def change(user_id: int, add: Sequence[Addition], remove: Sequence[str], reason: str | None) -> Call[Changed]:
    """It states what shall be, so it can be sent again."""
    body = _change(add, remove, reason)
    return Call("POST", path("users", user_id, "segments"), _CHANGED, body=encoded(body), can_repeat=True)


def change_many(changes: Sequence[UserChange], reason: str | None) -> Call[ManyChanged]:
    """As `change`, of up to 1,000 users."""
    listed = [{"user_id": each.user_id, **_change(each.add, each.remove, each.reason)} for each in changes]
    body = {"changes": listed} if reason is None else {"changes": listed, "reason": reason}
    return Call("POST", path("changes"), _MANY, body=encoded(body), can_repeat=True)


def explain(user_id: int, slug: str, at: datetime | None) -> Call[Explanation]:
    return Call("GET", path("users", user_id, "segments", slug), _EXPLANATION, query(at=at), can_repeat=True)


def history(
    user_id: int, begin: datetime | None, end: datetime | None, limit: int | None, cursor: str | None
) -> Call[HistoryPage]:
    asked = query(from_=begin, to=end, limit=limit, cursor=cursor)
    return Call("GET", path("users", user_id, "history"), _HISTORY, asked, can_repeat=True)


def lookup(user_ids: Sequence[int]) -> Call[Lookup]:
    body = encoded({"user_ids": user_ids})
    return Call("POST", path("lookup"), _aged_lookup, body=body, can_repeat=True)


def audit(limit: int | None, cursor: str | None) -> Call[AuditPage]:
    return Call("GET", path("audit"), _AUDIT, query(limit=limit, cursor=cursor), can_repeat=True)


def _change(
    add: Sequence[Addition], remove: Sequence[str], reason: str | None
) -> dict[str, Sequence[Addition] | Sequence[str] | str]:
    for each in add:
        if isinstance(each, Term) and each.until is not None:
            in_utc(each.until)
    body: dict[str, Sequence[Addition] | Sequence[str] | str] = {"add": add, "remove": remove}
    return body if reason is None else {**body, "reason": reason}


def _aged_segments(answer: Answer) -> UserSegments:
    return msgspec.structs.replace(_SEGMENTS(answer), age_s=answer.age_s)


def _aged_lookup(answer: Answer) -> Lookup:
    return msgspec.structs.replace(_LOOKUP(answer), age_s=answer.age_s)
