"""The hot path admits the same callers as the framework, and leaves every refusal to it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.jwt import JwtRules, JwtVerifier
from segmentd.auth.rate_limit import RateLimit
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.serve.wiring import open_node, service
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.asgi import JSON, Answer, Counted, Headers, Request, ask
from tests.support.client import Api
from tests.support.door import hot_path, middleware
from tests.support.issuer import CLAIMS, issuer
from tests.support.tokens import new_token, revoke

CLOSED: Final = AccessRules(may_be_open=False, bound_seconds=50)
JWT: Final = JwtVerifier.of(JwtRules(key=issuer("HS256").key, leeway_seconds=0, role_claim="role"))

READ: Final = Request("GET", "/api/v1/users/1000/segments")
LOOKUP: Final = Request("POST", "/api/v1/lookup", JSON, [b'{"user_ids":[1000,1]}'])
GIVEN: Final = {
    "GET": b'{"user_id":1000,"segments":["A"]}',
    "POST": b'{"users":[{"user_id":1000,"segments":["A"]},{"user_id":1,"segments":[]}]}',
}


class Doors:
    """The hot path with the framework behind it, and the framework alone, for the same callers."""

    def __init__(self, use_cases: Service, replica: Replica, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        self.behind = Counted(middleware(use_cases, authenticator))
        self.hot = hot_path(self.behind, replica, authenticator)
        self._alone = middleware(use_cases, authenticator)

    async def ask(self, request: Request, *headers: tuple[str, str]) -> Answer:
        """The one answer of both doors."""
        request = request._replace(headers=[*request.headers, ("x-request-id", "one"), *headers])
        answer = await ask(self.hot, request)
        alone = await ask(self._alone, request)
        assert answered(answer) == answered(alone)
        return answer


def answered(answer: Answer) -> tuple[object, ...]:
    """What must be the same for every way to answer."""
    names = ("content-type", "www-authenticate", "retry-after", "x-request-id")
    return answer.status, [answer.headers.get(name) for name in names], answer.body


@pytest.fixture
async def doors(
    database: Database, api: Api, folder: Path, tmp_path: Path
) -> AsyncIterator[Callable[[AccessRules], Doors]]:
    await api.create("A")
    await api.add(1000, "A")
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    chosen = Settings(data_dir=str(tmp_path))
    async with open_node(database, chosen, folder) as node:
        yield lambda rules: Doors(
            service(database, chosen, node), node.replica, Authenticator(database, rules)
        )


def bearer(secret: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {secret}")


@pytest.fixture(params=[READ, LOOKUP], ids=["read", "lookup"])
def plain(request: pytest.FixtureRequest) -> Request:
    """A request that the hot path answers itself."""
    asked: Request = request.param
    return asked


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_every_role_is_answered_on_the_spot(
    database: Database, doors: Callable[[AccessRules], Doors], plain: Request, role: Role, scheme: str
) -> None:
    secret = await new_token(database, "one", role)
    these = doors(CLOSED)
    await these.authenticator.look()

    answer = await these.ask(plain, ("authorization", f"{scheme} {secret}"))

    assert (answer.status, answer.body) == (200, GIVEN[plain.method])
    assert these.behind.asked == 0


async def test_a_jwt_is_answered_on_the_spot_until_it_ends(
    doors: Callable[[AccessRules], Doors], plain: Request
) -> None:
    these = doors(CLOSED._replace(jwt=JWT))
    good = issuer("HS256").token({**CLAIMS, "role": "reader", "exp": int(time.time()) + 1000})
    ended = issuer("HS256").token({**CLAIMS, "exp": int(time.time()) - 1})
    foreign = issuer("HS256", 1).token({**CLAIMS, "exp": int(time.time()) + 1000})

    assert (await these.ask(plain, bearer(good))).status == 200
    assert these.behind.asked == 0
    for refused in (ended, foreign):
        answer = await these.ask(plain, bearer(refused))
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="segmentd", error="invalid_token"'


REFUSED: Final[dict[str, Headers]] = {
    "no token": [],
    "a bad token": [bearer("segmentd_bad")],
    "an empty token": [("authorization", "")],
    "another scheme": [("authorization", "Basic eDp5")],
    "two bad tokens": [bearer("a"), bearer("b")],
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=[*REFUSED])
async def test_who_is_not_known_is_refused_by_the_framework(
    database: Database, doors: Callable[[AccessRules], Doors], plain: Request, headers: Headers
) -> None:
    await new_token(database, "one")
    these = doors(CLOSED)
    await these.authenticator.look()

    answer = await these.ask(plain, *headers)

    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="segmentd"')
    assert b"segments" not in answer.body
    assert these.behind.asked == 1


async def test_a_good_token_beside_another_header_of_the_same_name_is_refused(
    database: Database, doors: Callable[[AccessRules], Doors], plain: Request
) -> None:
    secret = await new_token(database, "one")
    these = doors(CLOSED)
    await these.authenticator.look()

    for pair in ([bearer(secret), bearer(secret)], [bearer("bad"), bearer(secret)]):
        answer = await these.ask(plain, *pair)
        assert answer.status == 401


async def test_a_revoked_token_is_refused(
    database: Database, doors: Callable[[AccessRules], Doors], plain: Request
) -> None:
    secret = await new_token(database, "one")
    these = doors(CLOSED)
    await these.authenticator.look()
    assert (await these.ask(plain, bearer(secret))).status == 200
    await revoke(database, "one")

    await these.authenticator.look()

    assert (await these.ask(plain, bearer(secret))).status == 401


async def test_while_it_is_not_known_who_may_call_nobody_is_answered(
    doors: Callable[[AccessRules], Doors], plain: Request
) -> None:
    answer = await doors(CLOSED).ask(plain, bearer("segmentd_x"))

    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


async def test_a_caller_over_the_rate_gets_retry_after(
    database: Database, doors: Callable[[AccessRules], Doors], plain: Request, tmp_path: Path
) -> None:
    secret = await new_token(database, "one")
    with closing(RateLimit.open(tmp_path / "rates", 0.001, b"key")) as limit:
        these = doors(CLOSED._replace(rate_limit=limit))
        await these.authenticator.look()
        first = await ask(these.hot, plain._replace(headers=[*plain.headers, bearer(secret)]))
        assert first.status == 200
        assert these.behind.asked == 0

        answer = await these.ask(plain, bearer(secret))

    assert answer.status == 429
    assert answer.headers["retry-after"].isdecimal()
    assert 900 < int(answer.headers["retry-after"]) <= 1000
    assert b'"type":"/problems/too-many-requests"' in answer.body
