"""A user's page: in what, since when, until when and why; what happened; and the forms that change it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final, NamedTuple

import htpy as h
from litestar import Response, get, post
from litestar.params import QueryParameter

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import (
    AnyRequest,
    CursorParameter,
    UseCases,
    UserIdParameter,
    instant,
)
from segmentd.console.forms import NONE_REFUSED, NOTHING, Attributes, Refusal, field, name_input, whole
from segmentd.console.instants import in_rfc3339
from segmentd.console.layout import empty, moment, next_page, notice, page, sentence, table
from segmentd.console.pages import timeline, user_change
from segmentd.console.pages.why import why
from segmentd.console.visit import Visit
from segmentd.console.words import user as words
from segmentd.domain.errors import Invalid, NotFound, UserNotFound, read
from segmentd.domain.identifiers import Slug, UserId, read_slug
from segmentd.domain.instants import Span, rfc3339
from segmentd.domain.memberships import Event, Evidence, Membership, Operation
from segmentd.domain.pages import Limit, Page
from segmentd.domain.users import User
from segmentd.service import Service

ROWS: Final = Limit(25)
EVENTS: Final = Limit(25)
# Each is drawn and written: with more of them the page would be longer than 100 kB.
EVENTS_OF_TIMELINE: Final = Limit(200)


class Asked(NamedTuple):
    """What the address asks for: as it was at a time, about one segment, the days of the timeline."""

    user_id: UserId
    at: datetime | None = None
    slug: str = ""
    days: int = 30
    after: str = ""
    cursor: str | None = None
    remove: str = ""

    @property
    def path(self) -> str:
        """The page's own address."""
        return f"/users/{self.user_id}"

    @property
    def at_text(self) -> str | None:
        """The time as an address has it."""
        return None if self.at is None else rfc3339(self.at)


@get("/users/{user_id:str}", opt={OPERATION: "get_user_segments"})
async def show_user(
    request: AnyRequest,
    user_id: UserIdParameter,
    service: UseCases,
    at: Annotated[str, QueryParameter(description="as it was then")] = "",
    slug: Annotated[str, QueryParameter(description="why, or why not, in this segment")] = "",
    days: Annotated[int, QueryParameter(ge=1, le=366)] = 30,
    after: Annotated[str, QueryParameter(description="segments after this slug")] = "",
    cursor: CursorParameter = None,
) -> Response[bytes]:
    """A user, now or as it was at a time."""
    visit = Visit.of(request)
    told = notice(visit, words.DONE.get(request.query_params.get("done", "")))
    try:
        moment_of_it = instant("at", in_rfc3339(at) if at else None)
        remove = request.query_params.get("remove", "")
        asked = Asked(user_id, moment_of_it, slug.strip(), days, after, cursor, remove)
        return await user_page(visit, service, asked, told)
    except Invalid as error:
        if not at or cursor is not None:
            raise
        refusal = Refusal.of(error, NOTHING, {"/at": "at"})
        return await user_page(visit, service, Asked(user_id, days=days), refused_time=refusal)


@post("/users/{user_id:str}/segments", opt={OPERATION: "change_user_segments"})
async def change_user(request: AnyRequest, user_id: UserIdParameter, service: UseCases) -> Response[bytes]:
    """Adds the user to a segment, or removes them from one."""
    visit = Visit.of(request)
    done = await user_change.change(request, visit, service, user_id)
    if isinstance(done, Refusal):
        return await user_page(visit, service, Asked(user_id), refusal=done)
    return done


async def user_page(
    visit: Visit,
    service: Service,
    asked: Asked,
    told: h.Node = None,
    *,
    refusal: Refusal = NONE_REFUSED,
    refused_time: Refusal = NONE_REFUSED,
) -> Response[bytes]:
    """The whole page."""
    user = await _known(service, asked.user_id)
    held = [each for each in await service.segments_at(asked.user_id, asked.at) if each.slug > asked.after]
    shown, more = held[:ROWS], len(held) > ROWS
    evidence = await service.explain_all(asked.user_id, [each.slug for each in shown], asked.at)
    removable = asked.at is None and visit.may("change_user_segments")
    return page(
        visit,
        visit.say(words.USER, id=asked.user_id),
        told,
        _about(visit, user),
        _as_it_was(visit, asked, refused_time),
        _heading(visit, asked),
        removable and user_change.removal(visit, asked.user_id, asked.remove, refusal, evidence),
        [
            _segments(visit, shown, evidence, asked.user_id, removable=removable),
            next_page(
                visit,
                visit.link(asked.path, after=shown[-1].slug, at=asked.at_text) if more else None,
            ),
        ]
        if shown
        else empty(visit.say(words.NO_SEGMENTS if asked.at is None else words.NO_SEGMENTS_THEN)),
        await _explanation(visit, service, asked),
        removable and user_change.addition(visit, asked.user_id, refusal),
        await _timeline(visit, service, asked),
        await _history(visit, service, asked),
        status=max(refusal.status, refused_time.status),
    )


async def _known(service: Service, user_id: UserId) -> User | None:
    try:
        return await service.get_user(user_id)
    except UserNotFound:
        return None


def _about(visit: Visit, user: User | None) -> h.Element:
    if user is None:
        return h.p[visit.say(words.UNKNOWN)]
    text = words.KNOWN if user.name is None else words.NAMED
    return h.p[sentence(visit, text, name=user.name, since=moment(visit, user.registered_at))]


def _heading(visit: Visit, asked: Asked) -> h.Element:
    if asked.at is None:
        return h.h2[visit.say(words.SEGMENTS)]
    return h.h2[sentence(visit, words.SEGMENTS_AT, at=moment(visit, asked.at))]


def _as_it_was(visit: Visit, asked: Asked, refusal: Refusal) -> h.Element:
    value = "" if asked.at is None else f"{asked.at:%Y-%m-%dT%H:%M:%S}"

    def control(own: Attributes) -> h.VoidElement:
        return h.input(own, type="datetime-local", step="1", value=value, data_zone="utc", required=True)

    return h.form(".inline", method="get", action=visit.link(asked.path))[
        field(visit, words.AT, "at", control, refusal),
        h.button[visit.say(words.SHOW)],
        asked.at is not None and h.a(".button", href=visit.link(asked.path))[visit.say(words.NOW)],
        whole(refusal),
    ]


def _segments(
    visit: Visit,
    shown: Sequence[Membership],
    evidence: Mapping[Slug, Evidence],
    user_id: UserId,
    *,
    removable: bool,
) -> h.Element:
    columns = [words.SEGMENT, words.SOURCE, words.SINCE, words.UNTIL, words.WHY]
    return table(
        visit.say(words.SEGMENTS),
        [*(visit.say(column) for column in columns), *([visit.say(words.CHANGE)] if removable else [])],
        (
            (
                h.a(href=visit.link(f"/segments/{each.slug}"))[each.slug],
                h.span(".tag")[visit.say(words.SOURCES[each.source])],
                moment(visit, each.since),
                moment(visit, each.until, words.FOR_GOOD),
                why(visit, evidence[each.slug]) if each.slug in evidence else None,
                *([user_change.removal_link(visit, user_id, each.slug)] if removable else []),
            )
            for each in shown
        ),
    )


async def _explanation(visit: Visit, service: Service, asked: Asked) -> h.Node:
    """Why the user is in one segment or not, whichever the reader asks about."""
    refusal, answer = NONE_REFUSED, None
    if asked.slug:
        try:
            slug = read(read_slug, asked.slug, "/slug")
            evidence = await service.explain(asked.user_id, slug, asked.at)
        except (Invalid, NotFound) as error:
            refusal = Refusal.of(error, NOTHING, {"/slug": "slug"}, "slug")
        else:
            member = evidence.because().member
            said = words.IS_IN if member else words.IS_OUT
            answer = h.p(".box.card")[
                h.strong(".in" if member else ".out")[visit.say(said, slug=slug)], " ", why(visit, evidence)
            ]
    return [
        h.h2("#why")[visit.say(words.ASK)],
        h.form(".inline", method="get", action=visit.link(asked.path) + "#why")[
            asked.at_text and h.input(type="hidden", name="at", value=asked.at_text),
            field(visit, words.SEGMENT, "slug", name_input(asked.slug), refusal, form="why"),
            h.button[visit.say(words.ASK_BUTTON)],
        ],
        answer,
    ]


async def _timeline(visit: Visit, service: Service, asked: Asked) -> h.Node:
    end = asked.at or await service.present()
    begin = end - timedelta(days=asked.days)
    if (kept_since := await service.history_begins_at()) is not None:
        begin = max(begin, kept_since)
    events = await service.list_latest_events(
        asked.user_id, Span(begin, end + timedelta(microseconds=1)), EVENTS_OF_TIMELINE, None
    )
    is_cut = events.next_cursor is not None
    if is_cut:
        begin = events.items[-1].at
    told = [event for event in reversed(events.items) if event.at > begin]
    found = timeline.Timeline.of(
        begin, end, await service.segments_at(asked.user_id, begin), told, is_cut=is_cut
    )
    return [
        h.h2("#timeline")[visit.say(words.TIMELINE)],
        timeline.drawn(visit, found, timeline.choices(visit, asked.days, asked.path, asked.at_text)),
    ]


async def _history(visit: Visit, service: Service, asked: Asked) -> h.Node:
    end = None if asked.at is None else asked.at + timedelta(microseconds=1)
    found = await service.list_latest_events(asked.user_id, Span(None, end), EVENTS, asked.cursor)
    return [
        h.h2("#history")[visit.say(words.HISTORY)],
        _events(visit, found) if found.items else empty(visit.say(words.NO_HISTORY)),
        None
        if found.begins_at is None or found.next_cursor
        else h.p[visit.say(words.HISTORY_BEGINS), " ", moment(visit, found.begins_at)],
        found.next_cursor
        and h.p[
            h.a(
                href=visit.link(asked.path, at=asked.at_text, cursor=found.next_cursor) + "#history",
                rel="next",
            )[visit.say(words.OLDER)]
        ],
    ]


def _events(visit: Visit, found: Page[Event]) -> h.Element:
    columns = (words.WHEN, words.SEGMENT, words.WHAT, words.CAUSE, words.WHO, words.REASON)
    return table(
        visit.say(words.HISTORY),
        [visit.say(column) for column in columns],
        (
            (
                moment(visit, event.at),
                event.segment,
                [
                    h.span(f".{'in' if event.operation is Operation.ADD else 'out'}")[
                        visit.say(words.OPERATIONS[event.operation])
                    ],
                    event.operation is Operation.ADD
                    and event.until is not None
                    and h.small[" ", sentence(visit, words.ENDS, until=moment(visit, event.until))],
                ],
                visit.say(words.CAUSES[event.cause]),
                visit.say(words.FOR, actor=event.actor, person=event.on_behalf_of)
                if event.on_behalf_of
                else event.actor,
                event.reason,
            )
            for event in found.items
        ),
    )


HANDLERS: Final = [show_user, change_user]
