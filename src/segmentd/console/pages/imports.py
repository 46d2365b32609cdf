"""Imports: the list, one with its progress and bad rows, and the form that brings a list."""

from typing import Annotated, Final

import htpy as h
from litestar import Response, get, post
from litestar.params import QueryParameter
from litestar.response import Stream

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.imports import NDJSON, ImportIdParameter, bad_row_lines
from segmentd.api.http.types import AnyRequest, CursorParameter, UseCases
from segmentd.console.forms import NONE_REFUSED, Form, Refusal, post_form, read_form
from segmentd.console.layout import (
    empty,
    going_on,
    html,
    is_for_a_part,
    moment,
    next_page,
    notice,
    page,
    see_other,
    table,
)
from segmentd.console.pages.import_form import bringing
from segmentd.console.visit import Visit
from segmentd.console.words import imports as words
from segmentd.domain.imports import Import, Status, read_import_id
from segmentd.domain.pages import Limit
from segmentd.service import Service

ROWS: Final = Limit(25)


@get("/imports", opt={OPERATION: "list_imports"})
async def show_imports(
    request: AnyRequest,
    service: UseCases,
    segment: Annotated[str, QueryParameter(description="for the form")] = "",
    cursor: CursorParameter = None,
) -> Response[bytes]:
    """A page of the imports, the newest first, and the form that brings a list."""
    refusal = NONE_REFUSED._replace(form=Form({"segment": segment}))
    return await imports_page(Visit.of(request), service, refusal, cursor)


@get("/imports/{import_id:str}", opt={OPERATION: "get_import"})
async def show_import(
    request: AnyRequest, import_id: ImportIdParameter, service: UseCases
) -> Response[bytes]:
    """One import; as a part only its progress."""
    visit = Visit.of(request)
    found = await service.imports.get(read_import_id(import_id))
    if is_for_a_part(request):
        return html(_progress(visit, found))
    cancels = visit.may("cancel_import") and not found.status.final
    return page(
        visit,
        visit.say(words.TITLE_OF_ONE, id=str(found.id)[:8]),
        notice(visit, words.DONE.get(request.query_params.get("done", ""))),
        h.div("#progress")[_progress(visit, found)],
        cancels
        and post_form(
            visit,
            f"/imports/{found.id}/cancel",
            h.button(".danger")[visit.say(words.CANCEL)],
            " ",
            h.small[visit.say(words.CANCEL_HINT)],
        ),
    )


@get("/imports/{import_id:str}/errors", opt={OPERATION: "list_import_errors"})
async def bad_rows(import_id: ImportIdParameter, service: UseCases) -> Stream:
    """Every bad row of an import, an object of JSON a line."""
    rows = service.imports.bad_rows(read_import_id(import_id))
    # The first rows before the answer begins: its status has to show if there is no such import.
    lines = bad_row_lines(await anext(rows, []), rows)
    headers = {"Content-Disposition": 'attachment; filename="bad-rows.ndjson"'}
    return Stream(lines, media_type=NDJSON, headers=headers)


@post("/imports/{import_id:str}/cancel", opt={OPERATION: "cancel_import"})
async def cancel(request: AnyRequest, import_id: ImportIdParameter, service: UseCases) -> Response[bytes]:
    """Stops an import; what was applied stays."""
    visit = Visit.of(request)
    await read_form(request, visit)
    found = await service.imports.cancel(read_import_id(import_id), visit.actor())
    return see_other(visit, visit.link(f"/imports/{found.id}", done="canceled"))


async def imports_page(
    visit: Visit, service: Service, refusal: Refusal, cursor: str | None = None
) -> Response[bytes]:
    """The list, and the form with what was refused."""
    found = await service.imports.list(ROWS, cursor)
    may_bring = visit.may("create_import")
    columns = (words.BEGUN, words.STATUS, words.OPERATION, words.SEGMENT, words.ROWS, words.BAD_ROWS)
    number = visit.language.number
    return page(
        visit,
        visit.say(words.TITLE),
        table(
            visit.say(words.TITLE),
            [visit.say(column) for column in columns],
            (
                (
                    h.a(href=visit.link(f"/imports/{each.id}"))[moment(visit, each.created_at)],
                    _status(visit, each),
                    visit.say(words.OPERATIONS[each.operation]),
                    each.segment or "–",
                    number(each.rows),
                    number(each.invalid_rows),
                )
                for each in found.items
            ),
        )
        if found.items
        else empty(visit.say(words.NONE_YET if may_bring else words.NONE_YET_TO_READ)),
        next_page(visit, found.next_cursor and visit.link("/imports", cursor=found.next_cursor)),
        may_bring and bringing(visit, refusal),
        status=refusal.status,
    )


def _status(visit: Visit, found: Import) -> h.Node:
    return [
        h.span(".tag.error" if found.status is Status.FAILED else ".tag")[
            visit.say(words.STATUSES[found.status])
        ],
        found.dry_run and [" ", h.small[visit.say(words.DRY_RUN)]],
    ]


def _progress(visit: Visit, found: Import) -> h.Element:
    number = visit.language.number
    done, users = found.applied_users, found.users
    rows = (
        (words.STATUS, _status(visit, found)),
        (words.OPERATION, visit.say(words.OPERATIONS[found.operation])),
        (words.SEGMENT, found.segment),
        (words.ROWS, number(found.rows)),
        (words.BAD_ROWS, number(found.invalid_rows)),
        (words.USERS, None if users is None else number(users)),
        (words.ADDED, number(found.added)),
        (words.REMOVED, number(found.removed)),
        (words.UPDATED, number(found.updated)),
        (words.UNCHANGED, number(found.unchanged)),
        (words.REASON, found.reason),
        (words.BEGUN, moment(visit, found.created_at)),
        (words.ENDED, moment(visit, found.finished_at)),
    )
    written = visit.say(words.PROGRESS, done=number(done), all="–" if users is None else number(users))
    return h.div[
        found.detail and h.p(".error.box", role="alert", lang="en")[found.detail],
        not found.status.final
        and h.p[
            h.progress(aria_label=written, value=users and str(done), max=users and str(users))[written],
            h.small[written],
        ],
        h.dl(".facts")[([h.dt[visit.say(text)], h.dd[value or "–"]] for text, value in rows)],
        _bad_rows(visit, found),
        _sample(visit, found),
        not found.status.final and going_on(visit, f"/imports/{found.id}", "progress"),
    ]


def _bad_rows(visit: Visit, found: Import) -> h.Node:
    if not found.errors:
        return None
    return [
        h.h2[visit.say(words.BAD_ROWS)],
        table(
            visit.say(words.BAD_ROWS),
            [visit.say(column) for column in (words.LINE, words.WRONG, words.TEXT)],
            ((str(row.line), h.span(lang="en")[row.detail], h.code[row.text]) for row in found.errors),
        ),
        h.p[
            h.a(href=visit.link(f"/imports/{found.id}/errors"), download=True)[visit.say(words.ALL_BAD_ROWS)]
        ],
    ]


def _sample(visit: Visit, found: Import) -> h.Node:
    if not found.sample:
        return None
    return [
        h.h2[visit.say(words.SAMPLE)],
        table(
            visit.say(words.SAMPLE),
            [visit.say(column) for column in (words.USER, words.SEGMENT, words.OUTCOME)],
            (
                (
                    h.a(href=visit.link(f"/users/{each.user_id}"))[str(each.user_id)],
                    each.segment,
                    visit.say(words.OUTCOMES[each.outcome]),
                )
                for each in found.sample
            ),
        ),
    ]


HANDLERS: Final = [show_imports, show_import, bad_rows, cancel]
