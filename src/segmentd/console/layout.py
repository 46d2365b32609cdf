"""What all pages have: the head, the search, the navigation, and small parts of pages."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import htpy as h
from litestar import Response
from litestar.datastructures import Cookie

from segmentd.api.http.edge.problem_documents import SECURITY_HEADERS
from segmentd.api.http.types import AnyRequest
from segmentd.console.files import file_link
from segmentd.console.forms import post_form
from segmentd.console.language import Language, Text
from segmentd.console.rendering import Rendered
from segmentd.console.visit import Visit
from segmentd.console.words import layout as words
from segmentd.domain.instants import rfc3339

CSP: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)

# htmx keeps no pages in the browser, runs no text as a script and adds no styles; it shows refusals too.
_HTMX: Final = (
    '{"allowEval":false,"allowScriptTags":false,"historyCacheSize":0,"refreshOnHistoryMiss":true,'
    '"includeIndicatorStyles":false,"attributesToSettle":["class"],"scrollIntoViewOnBoost":false,'
    '"responseHandling":[{"code":"204","swap":false},{"code":"...","swap":true}]}'
)


_PLACE: Final = re.compile(r"\{(\w+)\}")


class Place(NamedTuple):
    """An entry of the navigation: for those whose role allows the operation."""

    words: Text
    path: str
    operation: str


PLACES: Final[Sequence[Place]] = (
    Place(words.SEARCH, "/", "get_user_segments"),
    Place(words.SEGMENTS, "/segments", "list_segments"),
    Place(words.IMPORTS, "/imports", "list_imports"),
    Place(words.REPORTS, "/reports", "list_reports"),
    Place(words.ACTIVITY, "/activity", "follow_changes"),
    Place(words.AUDIT, "/audit", "list_audit_log"),
    Place(words.TOKENS, "/tokens", "list_tokens"),
)


def page(
    visit: Visit,
    title: str,
    *content: h.Node,
    status: int = 200,
    cookies: Iterable[Cookie] = (),
) -> Response[bytes]:
    """A page of the console with this title, which is also its heading."""
    document = h.html(lang=visit.language.value)[
        h.head[
            h.meta(charset="utf-8"),
            h.meta(name="viewport", content="width=device-width, initial-scale=1"),
            h.meta(name="htmx-config", content=_HTMX),
            h.title[f"{title} – segmentd"],
            h.link(rel="icon", href=file_link(visit.root, "icon.svg")),
            h.link(rel="stylesheet", href=file_link(visit.root, "console.css")),
            h.script(src=file_link(visit.root, "htmx.min.js"), defer=True),
            h.script(src=file_link(visit.root, "console.js"), defer=True),
        ],
        h.body(hx_boost="true")[
            h.a(".skip", href="#content")[visit.say(words.SKIP)],
            _header(visit),
            h.main("#content", tabindex="-1")[h.h1[title], content],
        ],
    ]
    return html(document, status, [*visit.cookies(), *cookies])


def html(content: h.BaseElement | str, status: int = 200, cookies: Sequence[Cookie] = ()) -> Response[bytes]:
    """An answer in HTML that no cache keeps and that loads nothing from elsewhere."""
    # With no-referrer, browsers would send `Origin: null` with our own forms (docs/decisions/0039).
    headers = {**SECURITY_HEADERS, "Content-Security-Policy": CSP, "Referrer-Policy": "same-origin"}
    return Rendered(content, status, headers, cookies)


def is_for_a_part(request: AnyRequest) -> bool:
    """Whether htmx asks for a part of a page, which it puts into the page that is there."""
    return "HX-Request" in request.headers and "HX-Boosted" not in request.headers


def see_other(visit: Visit, address: str, cookies: Sequence[Cookie] = ()) -> Response[bytes]:
    """The answer to a form that was done: the browser gets that page, so that a reload repeats nothing."""
    return Response(
        b"",
        status_code=303,
        media_type="text/html",
        headers={**SECURITY_HEADERS, "Location": address},
        cookies=[*visit.cookies(), *cookies],
    )


def _header(visit: Visit) -> h.Element:
    return h.header[
        h.a(".brand", href=visit.link("/"))["segmentd"],
        visit.principal is not None and _search(visit),
        h.nav(aria_label=visit.say(words.NAVIGATION))[
            h.ul[
                (
                    h.li[
                        h.a(href=visit.link(place.path), aria_current=_current(visit, place))[
                            visit.say(place.words)
                        ]
                    ]
                    for place in PLACES
                    if visit.may(place.operation)
                )
            ]
        ],
        _account(visit),
    ]


def _current(visit: Visit, place: Place) -> str | None:
    path = visit.here.partition("?")[0]
    is_here = path == place.path or (place.path != "/" and path.startswith(f"{place.path}/"))
    return "page" if is_here else None


def _search(visit: Visit) -> h.Element:
    return h.form(".search", method="get", action=visit.link("/search"), role="search")[
        h.label(for_="search", class_="hidden")[visit.say(words.SEARCH_FOR)],
        h.input(
            "#search",
            type="search",
            name="q",
            placeholder=visit.say(words.SEARCH_FOR),
            maxlength="128",
            required=True,
            autocomplete="off",
            spellcheck="false",
            aria_keyshortcuts="/",
        ),
        h.kbd(aria_hidden="true")["/"],
    ]


def _account(visit: Visit) -> h.Element:
    principal = visit.principal
    return h.div(".account")[
        principal is not None
        and h.span(".who")[
            visit.person or principal.name,
            " ",
            h.small[visit.say(words.OPEN) if visit.is_open else f"{principal.name}, {principal.role}"],
        ],
        visit.is_logged_in and post_form(visit, "/logout", h.button(".quiet")[visit.say(words.LOG_OUT)]),
        _languages(visit),
    ]


def _languages(visit: Visit) -> h.Element:
    return post_form(
        visit,
        "/language",
        h.input(type="hidden", name="back", value=visit.here),
        [
            h.button(
                ".quiet",
                name="language",
                value=each.value,
                lang=each.value,
                title=visit.say(words.LANGUAGE),
                aria_pressed="true" if each is visit.language else "false",
            )[each.value.upper()]
            for each in Language
        ],
        class_="languages",
        hx_boost="false",
    )


# Parts of pages


def moment(visit: Visit, instant: datetime | None, never: Text = words.NEVER) -> h.Node:
    """An instant, in UTC; the script shows it in the reader's zone, with UTC on hover."""
    if instant is None:
        return visit.say(never)
    in_utc = f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return h.time(datetime=rfc3339(instant), title=in_utc)[in_utc]


def sentence(visit: Visit, text: Text, **parts: h.Node) -> h.Fragment:
    """A text whose places have elements, such as times and links."""
    pieces = _PLACE.split(visit.language.raw(text))
    return h.fragment[(parts[piece] if odd % 2 else piece for odd, piece in enumerate(pieces))]


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[h.Node]]) -> h.Element:
    """A table that can be scrolled sideways on a narrow screen; the caption is for screen readers."""
    return h.div(".scroll", tabindex="0", role="region", aria_label=caption)[
        h.table[
            h.caption(".hidden")[caption],
            h.thead[h.tr[(h.th(scope="col")[column] for column in columns)]],
            h.tbody[(h.tr[(h.td[cell] for cell in row)] for row in rows)],
        ]
    ]


def empty(*words_of_it: h.Node) -> h.Element:
    """What a page says instead of a list that has nothing: what to do first."""
    return h.p(".empty")[words_of_it]


def next_page(visit: Visit, address: str | None) -> h.Node:
    """The link to the next page of a list, if there is one."""
    return (
        address
        and h.nav(".pages", aria_label=visit.say(words.PAGES))[
            h.a(href=address, rel="next")[visit.say(words.NEXT_PAGE)]
        ]
    )


def notice(visit: Visit, text: Text | None, **values: object) -> h.Node:
    """What was just done."""
    return text and h.p(".notice.box", role="status")[visit.say(text, **values)]


def going_on(visit: Visit, path: str, target: str) -> h.Node:
    """At the end of a part that is not final: with script it is loaded again after 2 s, else by a link."""
    return h.div(hx_get=visit.link(path), hx_trigger="load delay:2s", hx_target=f"#{target}")[
        h.noscript[h.a(href=visit.link(visit.here))[visit.say(words.REFRESH)]]
    ]
