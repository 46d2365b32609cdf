"""`segmentd user`, `add` and `remove`."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from segctl.connection import USUAL, Form, Where
from segctl.failures import WrongUse
from segctl.output import form_of, heading, show, show_all
from segctl.values import moment, seconds
from segmentd_client import Client, Term, errors
from segmentd_client.models import Event, Membership, User

LAST_EVENTS: Final = 10

_MEMBERSHIPS: Final = Membership.__struct_fields__
_EVENTS: Final = ["at", "operation", "segment", "source", "cause", "actor", "reason"]


class Overview(msgspec.Struct, frozen=True):
    """What support wants to see of a user."""

    user_id: int
    user: User | None
    segments: Sequence[Membership]
    last_events: Sequence[Event]


def user(
    user_id: int,
    /,
    *,
    at: Annotated[str | None, Parameter(help="As of this time.")] = None,
    detail: Annotated[bool, Parameter(negative="", help="Only the segments, each with the why.")] = False,
    explain: Annotated[str | None, Parameter(help="Why the user is in this segment or not.")] = None,
    history: Annotated[bool, Parameter(negative="", help="Every time that they got in or out.")] = False,
    where: Where = USUAL,
) -> None:
    """Show a user: in which segments, since when, until when, why, and the last events."""
    if detail + history + (explain is not None) > 1 or (history and at is not None):
        raise WrongUse("--detail, --explain and --history exclude each other, and so do --history and --at")
    instant = moment("--at", at)
    with where.opened() as client:
        if explain is not None:
            show(client.users.explain(user_id, explain, at=instant), where.output)
        elif history:
            show_all(client.users.history(user_id, limit=1000), _EVENTS, where.output)
        elif detail or instant is not None:
            show_all(client.users.memberships(user_id, at=instant), _MEMBERSHIPS, where.output)
        else:
            _show_overview(_overview(client, user_id), where.output)


def add(
    user_id: int,
    /,
    *slugs: str,
    ttl: Annotated[str | None, Parameter(help="For how long: 2d, 12h, 30m, 90s.")] = None,
    until: Annotated[str | None, Parameter(help="Until when: 2026-12-01T00:00:00Z.")] = None,
    reason: Annotated[str | None, Parameter(help="For the history.")] = None,
    where: Where = USUAL,
) -> None:
    """Add a user to segments, all or nothing."""
    ttl_seconds, end = seconds("--ttl", ttl), moment("--until", until)
    additions = [_addition(slug, end, ttl_seconds) for slug in _some(slugs)]
    with where.opened() as client:
        show(client.users.change(user_id, add=additions, reason=reason), where.output)


def remove(
    user_id: int,
    /,
    *slugs: str,
    reason: Annotated[str | None, Parameter(help="For the history.")] = None,
    where: Where = USUAL,
) -> None:
    """Remove a user from segments, all or nothing."""
    with where.opened() as client:
        show(client.users.change(user_id, remove=_some(slugs), reason=reason), where.output)


def _some(slugs: Sequence[str]) -> Sequence[str]:
    if not slugs:
        raise WrongUse("name at least one segment")
    return slugs


def _addition(slug: str, until: datetime | None, ttl_seconds: int | None) -> str | Term:
    if until is None and ttl_seconds is None:
        return slug
    return Term(slug, until=until, ttl_seconds=ttl_seconds)


def _overview(client: Client, user_id: int) -> Overview:
    try:
        registered = client.users.get(user_id)
    except errors.UserNotFound:
        registered = None
    segments = client.users.memberships(user_id)
    last = deque(client.users.history(user_id, limit=1000), LAST_EVENTS)
    return Overview(user_id, registered, segments, [*last])


def _show_overview(overview: Overview, asked: Form | None) -> None:
    if form_of(asked) != "table":
        show(overview, asked)
        return
    who = overview.user
    known = "not registered" if who is None else f"registered {who.registered_at:%Y-%m-%d %H:%M}"
    name = f" {who.name}," if who is not None and who.name else ""
    heading(f"user {overview.user_id}:{name} {known}\n")
    show_all(overview.segments, _MEMBERSHIPS, asked)
    heading("\nlast events\n" if overview.last_events else "\nno events")
    if overview.last_events:
        show_all(overview.last_events, _EVENTS, asked)
