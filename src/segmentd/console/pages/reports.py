"""Reports: the form that orders one, and one with its progress and its link."""

from typing import Final

import htpy as h
from litestar import Response, get, post

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.reports import Order, ReportIdParameter, file_link
from segmentd.api.http.types import AnyRequest, Ids, UseCases
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
from segmentd.console.layout import going_on, html, is_for_a_part, moment, page, see_other, sentence
from segmentd.console.visit import Visit
from segmentd.console.words import reports as words
from segmentd.domain.errors import SegmentdError, SegmentNotFound, UserNotFound
from segmentd.domain.reports import Status, read_report_id
from segmentd.reports.links import SignedReport
from segmentd.service import Service


@get("/reports", opt={OPERATION: "get_report"})
async def show_form(request: AnyRequest, service: UseCases) -> Response[bytes]:
    """The form that orders a report."""
    return await _form(Visit.of(request), service, NONE_REFUSED)


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
        ordered = await service.order_report(wanted, visit.actor())
    except SegmentdError as error:
        field_of_it = {SegmentNotFound: "segment", UserNotFound: "user_id"}.get(type(error))
        pointers = {f"/{name}": name for name in ("month", "user_id", "segment")} | {"": "month"}
        return await _form(visit, service, Refusal.of(error, form, pointers, field_of_it))
    return see_other(visit, visit.link(f"/reports/{ordered.report.id}"))


@get("/reports/{report_id:str}", opt={OPERATION: "get_report"})
async def show_report(
    request: AnyRequest, report_id: ReportIdParameter, service: UseCases
) -> Response[bytes]:
    """One report; as a part only its progress."""
    visit = Visit.of(request)
    found = await service.get_report(read_report_id(report_id))
    progress = _progress(visit, found, file_link(request, *found))
    if is_for_a_part(request):
        return html(progress)
    return page(
        visit,
        visit.say(words.TITLE_OF_ONE, id=str(found.report.id)[:8]),
        h.div("#progress")[progress],
        visit.may("order_report") and h.p[h.a(href=visit.link("/reports"))[visit.say(words.ANOTHER)]],
    )


def _progress(visit: Visit, found: SignedReport, link: str) -> h.Element:
    report = found.report
    rows = (
        (words.STATUS, h.span(".tag")[visit.say(words.STATUSES[report.status])]),
        (
            words.PERIOD,
            sentence(
                visit,
                words.FROM_TO,
                begin=moment(visit, report.begins_at),
                end=moment(visit, report.ends_at),
            ),
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


async def _form(visit: Visit, service: Service, refusal: Refusal) -> Response[bytes]:
    if not visit.may("order_report"):
        return page(visit, visit.say(words.TITLE), h.p(".empty")[visit.say(words.MAY_NOT)])
    sent = refusal.form
    month = sent.text("month") or f"{await service.present():%Y-%m}"
    return page(
        visit,
        visit.say(words.TITLE),
        h.p[visit.say(words.ABOUT)],
        post_form(visit, "/reports", whole(refusal), _fields(visit, refusal, sent, month), class_="card"),
        status=refusal.status,
    )


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


HANDLERS: Final = [show_form, order, show_report]
