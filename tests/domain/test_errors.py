import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from segmentd.api.problems import HTTP_PROBLEMS, PROBLEMS, problem_of
from segmentd.domain import errors
from segmentd.domain.errors import Fault, Invalid, SegmentdError, SegmentNotFound

# What the tree's own branches mean, so that a leaf below them says nothing else.
STATUS_OF_BRANCH = {
    errors.Invalid: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.Denied: 403,
    errors.Unauthenticated: 401,
    errors.AnswerTooLarge: 413,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
    errors.NoDatabase: 501,
}


def tree(error: type[SegmentdError]) -> Iterator[type[SegmentdError]]:
    yield error
    for child in error.__subclasses__():
        yield from tree(child)


ERRORS = [*tree(SegmentdError)]
LEAVES = [error for error in ERRORS if not error.__subclasses__()]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_error_has_a_problem_of_its_own_or_that_of_its_branch(leaf: type[SegmentdError]) -> None:
    found = next(ancestor for ancestor in leaf.__mro__ if ancestor in PROBLEMS)

    assert found is not SegmentdError, f"{leaf.__name__} would be answered as an internal error"
    branch = next((branch for branch in leaf.__mro__ if branch in STATUS_OF_BRANCH), None)
    assert problem_of(leaf).status == (500 if branch is None else STATUS_OF_BRANCH[branch])


def test_the_table_names_each_kind_once() -> None:
    problems = {*PROBLEMS.values(), *HTTP_PROBLEMS.values()}
    kinds = [problem.kind for problem in problems]

    assert len({*kinds}) == len(kinds)


def test_every_problem_is_named_and_titled_for_people() -> None:
    for problem in {*PROBLEMS.values(), *HTTP_PROBLEMS.values()}:
        assert problem.type == f"/problems/{problem.kind}"
        assert problem.kind == problem.kind.lower()
        assert problem.title[0].isupper()
        assert 400 <= problem.status < 600
        assert problem.grpc_status.isupper()


def test_errors_that_a_retry_may_mend_say_when() -> None:
    assert problem_of(errors.Unavailable).retry_after
    assert problem_of(errors.ReportNotReady).retry_after
    assert not problem_of(errors.SegmentExists).retry_after


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_default_message(error: type[SegmentdError]) -> None:
    assert (inspect.getdoc(error) or "").partition("\n")[0].endswith(".")
    assert error.__doc__ is not SegmentdError.__doc__ or error is SegmentdError


def test_the_docstring_is_the_default_message() -> None:
    assert str(errors.Unavailable()) == errors.Unavailable.__doc__
    assert errors.Unavailable("no route to host").detail == "no route to host"


def test_the_drawing_at_the_top_of_the_file_shows_the_whole_tree() -> None:
    drawing = inspect.getdoc(errors) or ""

    assert Path(errors.__file__ or "").name == "errors.py"
    for error in ERRORS:
        assert error.__name__ in drawing


def test_an_invalid_request_tells_every_fault_and_where_it_stands() -> None:
    error = Invalid(Fault("/add/0", "the segment A is named twice"), Fault("", "nothing to do"))

    assert error.detail == "/add/0: the segment A is named twice; the body: nothing to do"
    assert error.extra == {
        "errors": [
            {"pointer": "/add/0", "detail": "the segment A is named twice"},
            {"pointer": "", "detail": "nothing to do"},
        ]
    }


def test_unknown_segments_are_all_named() -> None:
    error = SegmentNotFound(["A", "B"])

    assert error.extra == {"segments": ["A", "B"]}
    assert "A, B" in error.detail
