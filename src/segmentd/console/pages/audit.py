"""The audit log, for administrators."""

from collections.abc import Mapping
from typing import Final

import htpy as h
from litestar import Response, get

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, CursorParameter, UseCases
from segmentd.console.layout import empty, moment, next_page, page, table
from segmentd.console.visit import Visit
from segmentd.console.words import audit as words
from segmentd.console.words.user import FOR
from segmentd.domain.pages import Limit

ROWS: Final = Limit(50)


@get("/audit", opt={OPERATION: "list_audit_log"})
async def show_audit_log(
    request: AnyRequest, service: UseCases, cursor: CursorParameter = None
) -> Response[bytes]:
    """A page of the audit log, the newest first."""
    visit = Visit.of(request)
    found = await service.list_audit_log(ROWS, cursor)
    columns = (words.WHEN, words.WHO, words.WHAT, words.SUBJECT, words.BEFORE, words.AFTER)
    listed = table(
        visit.say(words.TITLE),
        [visit.say(column) for column in columns],
        (
            (
                moment(visit, each.at),
                who(visit, each.actor, each.on_behalf_of),
                visit.say(words.OPERATIONS[each.operation]),
                each.subject or "–",
                _values(each.before, each.after),
                _values(each.after, each.before),
            )
            for each in found.items
        ),
    )
    return page(
        visit,
        visit.say(words.TITLE),
        listed if found.items else empty(visit.say(words.NONE_YET)),
        next_page(visit, found.next_cursor and visit.link("/audit", cursor=found.next_cursor)),
    )


def who(visit: Visit, actor: str, person: str | None) -> str:
    """Who did it, and for whom."""
    return actor if person is None else visit.say(FOR, actor=actor, person=person)


def _values(
    values: Mapping[str, str | int | float | None] | None,
    other: Mapping[str, str | int | float | None] | None,
) -> h.Node:
    """The values that the other side has not."""
    differing = {
        name: value
        for name, value in (values or {}).items()
        if other is None or name not in other or other[name] != value
    }
    return [
        h.div[h.small[name, ": "], "–" if value is None else str(value)] for name, value in differing.items()
    ] or "–"


HANDLERS: Final = [show_audit_log]
