"""Reports: the list, the form that orders one, and one with its progress and its link."""

from collections.abc import Sequence
from typing import Final

import htpy as h
from litestar import Response, get, post

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.reports import Order, ReportIdParameter, file_link
from segmentd.api.http.types import AnyRequest, CursorParameter, Ids, UseCases
from segmentd.console.forms import (
    NONE_REFUSED,
    Attributes,
    Form,
    Refusal,
    converted,
    field,
    name_input,
    post_form,
    read_form,
    whole,
)
from segmentd.console.layout import (
    empty,
    going_on,
    html,
    is_for_a_part,
    moment,
    next_page,
    page,
    see_other,
    sentence,
    table,
)
from segmentd.console.pages.audit import who
from segmentd.console.visit import Visit
from segmentd.console.words import reports as words
from segmentd.domain.errors import SegmentdError, SegmentNotFound, UserNotFound
from segmentd.domain.pages import Limit
from segmentd.domain.reports import ListedReport, Period, Report, Status, read_report_id
from segmentd.reports.links import SignedReport
from segmentd.service import Service

ROWS: Final = Limit(25)


@get("/reports", opt={OPERATION: "list_reports"})
async def show_reports(
    request: AnyRequest, service: UseCases, cursor: CursorParameter = None
) -> Response[bytes]:
    """A page of the reports, the newest first, and the form that orders one."""
    return await _reports_page(request, service, NONE_REFUSED, cursor)


@post("/reports", opt={OPERATION: "order_report"})
async def order(request: AnyRequest, service: UseCases) -> Response[bytes]:
    """Orders a report; leads to its page, or says what is wrong with the form."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    values: dict[str, object] = {
        name: text.strip() for name in ("month", "user_id", "segment") if (text := form.text(name)).strip()
    }
    try:
        wanted = converted({**values, "header": bool(form.text("header"))}, Order).to_order(Ids.STRING)
        ordered = await service.reports.order(wanted, visit.actor())
    except SegmentdError as error:
        field_of_it = {SegmentNotFound: "segment", UserNotFound: "user_id"}.get(type(error))
        pointers = {f"/{name}": name for name in ("month", "user_id", "segment")} | {"": "month"}
        return await _reports_page(request, service, Refusal.of(error, form, pointers, field_of_it))
    return see_other(visit, visit.link(f"/reports/{ordered.report.id}"))


@get("/reports/{report_id:str}", opt={OPERATION: "get_report"})
async def show_report(
    request: AnyRequest, report_id: ReportIdParameter, service: UseCases
) -> Response[bytes]:
    """One report; as a part only its progress."""
    visit = Visit.of(request)
    found = await service.reports.get(read_report_id(report_id))
    progress = _progress(visit, found, file_link(request, *found))
    if is_for_a_part(request):
        return html(progress)
    return page(
        visit,
        visit.say(words.TITLE_OF_ONE, id=str(found.report.id)[:8]),
        h.div("#progress")[progress],
        h.p[h.a(href=visit.link("/reports"))[visit.say(words.ALL)]],
    )


def _progress(visit: Visit, found: SignedReport, link: str) -> h.Element:
    report = found.report
    rows = (
        (words.STATUS, h.span(".tag")[visit.say(words.STATUSES[report.status])]),
        (
            words.PERIOD,
            _period(visit, report),
        ),
        (words.ROWS, "–" if report.rows is None else visit.language.number(report.rows)),
        (words.AS_OF, moment(visit, report.as_of)),
        (words.EXPIRES, moment(visit, report.expires_at)),
    )
    return h.div[
        report.reason and h.p(".error.box", role="alert", lang="en")[report.reason],
        not report.status.final and h.p[h.progress(aria_label=visit.say(words.STATUSES[report.status]))],
        h.dl(".facts")[([h.dt[visit.say(text)], h.dd[value]] for text, value in rows)],
        report.status is Status.DONE
        and [
            h.p[h.a(".button.main", href=link, hx_boost="false")[visit.say(words.OPEN)]],
            h.p[h.small[visit.say(words.SHARE)], h.br, h.code[link]],
        ],
        not report.status.final and going_on(visit, f"/reports/{report.id}", "progress"),
    ]


async def _reports_page(
    request: AnyRequest, service: Service, refusal: Refusal, cursor: str | None = None
) -> Response[bytes]:
    visit = Visit.of(request)
    found = await service.reports.list(ROWS, cursor)
    may_order = visit.may("order_report")
    return page(
        visit,
        visit.say(words.TITLE),
        h.p[visit.say(words.ABOUT)],
        await _listed(request, visit, service, found.items)
        if found.items
        else empty(visit.say(words.NONE_YET if may_order else words.NONE_YET_TO_READ)),
        next_page(visit, found.next_cursor and visit.link("/reports", cursor=found.next_cursor)),
        may_order and await _form(visit, service, refusal),
        status=refusal.status,
    )


async def _listed(
    request: AnyRequest, visit: Visit, service: Service, some: Sequence[ListedReport]
) -> h.Element:
    now = await service.present()
    signatures = await service.reports.signatures(some)
    columns = (words.ORDERED, words.ORDERED_BY, words.STATUS, words.PERIOD, words.ABOUT_WHAT, words.FILE)

    def file(report: ListedReport) -> h.Node:
        if report.status is not Status.DONE:
            return "–"
        if report.expires_at <= now:
            return visit.say(words.EXPIRED)
        return h.a(href=file_link(request, report, signatures[report.id]), hx_boost="false")[
            visit.say(words.OPEN)
        ]

    return table(
        visit.say(words.TITLE),
        [visit.say(column) for column in columns],
        (
            (
                h.a(href=visit.link(f"/reports/{each.id}"))[moment(visit, each.created_at)],
                who(visit, each.ordered_by, each.on_behalf_of),
                h.span(".tag")[visit.say(words.STATUSES[each.status])],
                _period(visit, each),
                _about(visit, each),
                file(each),
            )
            for each in some
        ),
    )


def _period(visit: Visit, report: Report) -> h.Node:
    """A month by its name, as it was ordered."""
    if report.begins_at == report.begins_at.replace(day=1, hour=0, minute=0, second=0, microsecond=0):
        month = f"{report.begins_at:%Y-%m}"
        if Period.of_month(month).ends_at == report.ends_at:
            return month
    return sentence(
        visit,
        words.FROM_TO,
        begin=moment(visit, report.begins_at),
        end=moment(visit, report.ends_at),
    )


def _about(visit: Visit, report: ListedReport) -> str:
    user = report.user_id and visit.say(words.ABOUT_USER, user=report.user_id)
    return ", ".join(part for part in (report.segment, user) if part) or visit.say(words.ABOUT_ALL)


async def _form(visit: Visit, service: Service, refusal: Refusal) -> h.Node:
    sent = refusal.form
    month = sent.text("month") or f"{await service.present():%Y-%m}"
    return [
        h.h2("#new")[visit.say(words.ORDER_ONE)],
        post_form(visit, "/reports", whole(refusal), _fields(visit, refusal, sent, month), class_="card"),
    ]


def _fields(visit: Visit, refusal: Refusal, sent: Form, month: str) -> h.Node:
    def month_of(own: Attributes) -> h.VoidElement:
        return h.input(own, type="month", required=True, maxlength="7", value=month)

    def user(own: Attributes) -> h.VoidElement:
        return h.input(
            own, inputmode="numeric", maxlength="19", value=sent.text("user_id"), autocomplete="off"
        )

    segment = name_input(sent.text("segment"), required=False)
    return [
        field(visit, words.MONTH, "month", month_of, refusal, words.MONTH_HINT),
        field(visit, words.USER, "user_id", user, refusal, words.USER_HINT),
        field(visit, words.SEGMENT, "segment", segment, refusal, words.SEGMENT_HINT),
        h.p[
            h.label[
                h.input(type="checkbox", name="header", value="true", checked=bool(sent.text("header"))),
                " ",
                visit.say(words.HEADER),
            ]
        ],
        h.button(".main")[visit.say(words.ORDER)],
    ]


HANDLERS: Final = [show_reports, order, show_report]
