"""Errors as pages: the problem's words, and what to do next."""

import htpy as h
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from segmentd.api.http.edge.errors import DETAILS, failure, faults_of
from segmentd.api.http.types import AnyRequest
from segmentd.api.problems import HTTP_PROBLEMS, Problem, problem_of
from segmentd.console.language import Text
from segmentd.console.layout import html, is_for_a_part, page, see_other
from segmentd.console.visit import Visit, session_secret
from segmentd.console.words import access as access_words
from segmentd.console.words import layout as words
from segmentd.domain.errors import Invalid, SegmentdError, Unauthenticated

_TITLES = {403: words.FORBIDDEN, 404: words.NOT_HERE, 503: words.AWAY}


def refused(request: AnyRequest, error: SegmentdError) -> Response[bytes]:
    """Errors of the use cases; who has to log in is shown the form."""
    visit = Visit.of(request)
    if isinstance(error, Unauthenticated):
        return _to_login(request, visit)
    problem = problem_of(type(error))
    retry = error.retry_after or problem.retry_after
    return _refusal(request, visit, problem, error.detail, retry)


def invalid_parameter(request: AnyRequest, error: ValidationException) -> Response[bytes]:
    """A bad part of an address."""
    return refused(request, Invalid(*faults_of(error)))


def http_error(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Errors that only HTTP has."""
    problem = HTTP_PROBLEMS.get(error.status_code) or Problem(
        "http", "HTTP error", error.status_code, "UNKNOWN"
    )
    return _refusal(request, Visit.of(request), problem, DETAILS.get(error.status_code, error.detail))


def failed(request: AnyRequest, error: Exception) -> Response[bytes]:
    """A bug: the log has the details."""
    failure(request.scope, error)
    detail = "Something went wrong on our side; the log has the details."
    return _refusal(request, Visit.of(request), HTTP_PROBLEMS[500], detail)


def _refusal(
    request: AnyRequest, visit: Visit, problem: Problem, detail: str, retry_after: int | None = None
) -> Response[bytes]:
    request.scope["state"]["problem"] = problem.kind  # for the metrics
    if is_for_a_part(request):
        return html(h.span(".error", lang="en")[detail], problem.status)
    title: Text = _TITLES.get(problem.status, words.REFUSED)
    request_id = request.scope["state"].get("request_id")
    answer = page(
        visit,
        visit.say(title),
        h.p(".error.box", role="alert", lang="en")[detail],
        request.method == "GET"
        and retry_after
        and h.p[h.a(".button", href=visit.link(visit.here))[visit.say(words.TRY_AGAIN)]],
        h.p[h.a(href=visit.link("/"))[visit.say(words.BACK)]],
        request_id and h.p[h.small[visit.say(words.REQUEST, id=request_id)]],
        status=problem.status,
    )
    if retry_after:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _to_login(request: AnyRequest, visit: Visit) -> Response[bytes]:
    """The way to the form to log in, and from there back to this page if it is one to look at."""
    if is_for_a_part(request):  # the whole page has to go
        answer = html("")
        answer.headers["HX-Redirect"] = visit.link("/login")
        return answer
    login = visit.link("/login", next=visit.here if request.method == "GET" else None)
    comes_from_elsewhere = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if request.method != "GET" or session_secret(request) is not None or not comes_from_elsewhere:
        return see_other(visit, login)
    # A link on a foreign page brings no cookie (SameSite=Strict). The next step is from a page of our own, so
    # it brings the cookie, and who is logged in comes to the page at once.
    document = h.html(lang=visit.language.value)[
        h.head[
            h.meta(charset="utf-8"),
            h.meta(http_equiv="refresh", content=f"0;url={login}"),
            h.title["segmentd"],
        ],
        h.body[h.p[h.a(href=login)[visit.say(access_words.GO_ON)]]],
    ]
    return html(document)


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    SegmentdError: refused,
    ValidationException: invalid_parameter,
    HTTPException: http_error,
    Exception: failed,
}
