"""What the Python client decides without I/O, and what it does when answers are lost."""

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

from segmentd.api.problems import HTTP_PROBLEMS, PROBLEMS
from segmentd_client import Client, Retries, errors
from segmentd_client.calls import segments, users
from segmentd_client.core import Answer, problem, query
from segmentd_client.version import VERSION

ROOT = Path(__file__).parents[3]
AT_ONCE = Retries(first_s=0)


def test_every_kind_of_problem_of_the_service_has_an_exception() -> None:
    kinds = {each.kind for each in (*PROBLEMS.values(), *HTTP_PROBLEMS.values())}
    assert set(errors.KINDS) == kinds


def test_a_problem_says_what_the_service_said() -> None:
    body = b'{"type": "/problems/validation", "detail": "no", "errors": [{"pointer": "/a", "detail": "b"}]}'
    found = problem(Answer(422, {"retry-after": "7"}, body))
    assert isinstance(found, errors.Validation)
    assert (str(found), found.retry_after_s, found.faults) == ("no", 7, [errors.Fault("/a", "b")])


@pytest.mark.parametrize(("status", "kind"), [(404, errors.UnexpectedAnswer), (502, errors.Unavailable)])
def test_an_answer_of_another_server_is_an_error_of_its_own(
    status: int, kind: type[errors.ClientError]
) -> None:
    assert type(problem(Answer(status, {}, b"<html>"))) is kind


def test_a_time_without_an_offset_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="has no offset"):
        query(at=datetime(2026, 11, 1))  # noqa: DTZ001 - the one under test


def test_a_slug_stays_one_part_of_the_address() -> None:
    assert segments.get("a/../b?c").path == "/api/v1/segments/a%2F..%2Fb%3Fc"
    with pytest.raises(ValueError, match="cannot stand"):
        segments.get("..")


def test_the_synchronous_client_is_what_make_client_writes() -> None:
    subprocess.run([sys.executable, ROOT / ".ci/synchronous_client.py", "--check"], check=True)


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


# What is sent again. The answers stand for those of a service in trouble, which a real one seldom is.

Reply = Callable[[httpx2.Request], httpx2.Response]
UNAVAILABLE = httpx2.Response(503, json={"type": "/problems/unavailable"}, headers={"retry-after": "0"})
TOO_MANY = httpx2.Response(429, json={"type": "/problems/too-many-requests"})
GOOD = httpx2.Response(200, json={"user_id": 1, "segments": ["A"]})


class Answers(httpx2.BaseTransport):
    """Gives these answers, one after the other, and counts."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self._answers = [*answers]
        self.asked = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked += 1
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def read(client: Client) -> object:
    return client.users.segments(1)


def make(client: Client) -> object:
    return client.segments.create("A")


def delete(client: Client) -> None:
    client.segments.delete("A")


def from_memory(client: Client) -> object:
    return client.imports.create(b"1\n")


def in_pieces(client: Client) -> object:
    return client.imports.create(iter([b"1\n"]))


@pytest.mark.parametrize(
    ("act", "first", "is_sent_again"),
    [
        (read, UNAVAILABLE, True),
        (read, httpx2.ReadError("lost"), True),
        (read, httpx2.ReadTimeout("late"), True),
        (read, httpx2.Response(404, json={"type": "/problems/not-found"}), False),
        (make, UNAVAILABLE, False),
        (make, httpx2.ReadError("lost"), False),
        (make, TOO_MANY, True),
        (make, httpx2.ConnectError("refused"), True),
        (delete, httpx2.ReadError("lost"), False),
        (from_memory, httpx2.ReadError("lost"), True),
        (from_memory, httpx2.Response(409, json={"type": "/problems/idempotency-key-in-use"}), True),
        (in_pieces, httpx2.ReadError("lost"), False),
    ],
)
def test_a_call_is_sent_again_only_where_that_is_safe(
    act: Callable[[Client], object],
    first: httpx2.Response | Exception,
    is_sent_again: bool,  # noqa: FBT001
) -> None:
    answers = Answers(first, httpx2.Response(400, json={"type": "/problems/malformed"}))
    with Client(transport=answers, retries=AT_ONCE) as client, pytest.raises(errors.ClientError):
        act(client)
    assert answers.asked == 1 + is_sent_again


def test_an_import_is_sent_again_under_its_first_key() -> None:
    keys: list[str] = []

    class Lost(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            keys.append(request.headers["idempotency-key"])
            assert request.read() == b"1\n"
            raise httpx2.ReadError("lost")

    with Client(transport=Lost(), retries=AT_ONCE) as client, pytest.raises(errors.AnswerLost):
        client.imports.create(b"1\n")
    assert len(keys) == 5
    assert len({*keys}) == 1


def test_a_pause_grows_and_is_never_shorter_than_the_service_asks() -> None:
    retries = Retries(first_s=1, longest_s=8, longest_wait_s=20)
    lost = errors.AnswerLost()
    pauses = [retries.backed_off(attempt, lost) for attempt in range(6)]
    for pause, most in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert pause is not None
        assert most / 2 <= pause <= most
    asked = retries.backed_off(0, errors.Unavailable(503, {}, 10))
    assert asked is not None
    assert asked >= 10
    assert retries.backed_off(0, errors.ReportStoreFull(429, {}, 600)) is None
    assert retries.pause_s(4, lost, can_repeat=True) is None


def test_the_feed_reconnects_and_goes_on_where_it_was() -> None:
    page = httpx2.Response(200, json={"changes": [], "next": "p1"})
    answers = Answers(
        page,
        UNAVAILABLE,
        httpx2.ReadError("lost"),
        httpx2.Response(410, json={"type": "/problems/position-expired"}),
    )
    with Client(transport=answers, retries=AT_ONCE) as client:
        pages = client.feed.pages("now")
        assert next(pages).next == "p1"
        with pytest.raises(errors.PositionExpired):
            next(pages)
    assert answers.asked == 4


def test_a_client_that_reaches_nobody_says_so() -> None:
    with (
        Client("http://127.0.0.1:9", retries=Retries(most=1, first_s=0)) as client,
        pytest.raises(errors.NotSent, match=r"cannot reach http://127\.0\.0\.1:9"),
    ):
        client.check_ready()


def test_a_stream_that_breaks_off_is_an_error() -> None:
    def broken() -> Iterator[bytes]:
        yield b'{"user_id":1,"source":"explicit","since":"2026-11-21T02:12:52.229707Z","until":null}\n{"us'
        raise httpx2.RemoteProtocolError("no end")

    answers = Answers(httpx2.Response(200, content=broken()))
    found: list[int] = []
    with Client(transport=answers) as client, pytest.raises(errors.AnswerLost):
        found += (member.user_id for member in client.segments.export("A"))
    assert answers.asked == 1


def test_a_token_goes_with_every_request_and_stands_nowhere_else() -> None:
    tokens = iter(["first", "second"])
    sent: list[str] = []

    class Heard(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            sent.append(request.headers["authorization"])
            return httpx2.Response(200, json={"user_id": 1, "segments": []})

    with Client(token=lambda: next(tokens), transport=Heard()) as client:
        client.users.segments(1)
        client.users.segments(1)
    assert sent == ["Bearer first", "Bearer second"]
    with (
        Client(token="a\nb", transport=Heard()) as client,
        pytest.raises(ValueError, match="the token") as raised,
    ):
        client.users.segments(1)
    assert "a\nb" not in str(raised.value)


@pytest.mark.parametrize("server", ["localhost:8080", "ftp://a", "http://", "http://a?b"])
def test_an_address_of_no_service_is_refused(server: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Client(server)


def test_what_repeats_is_what_the_contract_says() -> None:
    assert users.change(1, ["A"], [], None).can_repeat
    assert segments.update("A", None, "x", 1).can_repeat
    assert not segments.update("A", "B", "x", 1).can_repeat
    assert not users.register(None, None).can_repeat
