"""Who is admitted, decided by what the last poll of the database found."""

import json
import math
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.auth.authenticator import (
    MOST_REMEMBERED,
    MOST_REMEMBERED_BYTES,
    REMEMBERED_S,
    AccessRules,
    Authenticator,
)
from segmentd.auth.jwt import JwtRules, JwtVerifier
from segmentd.auth.rate_limit import RateLimit
from segmentd.auth.tokens import digest_of
from segmentd.domain.access import ANONYMOUS, Principal, Role
from segmentd.domain.errors import TooManyRequests, Unauthenticated, Unavailable
from segmentd.storage.database import Database
from tests.support.clock import Clock
from tests.support.issuer import CLAIMS, issuer
from tests.support.rows import Rows, rows_of
from tests.support.tokens import new_token, revoke

OPEN: Final = AccessRules(may_be_open=True, bound_seconds=50)
MANY: Final = settings(
    max_examples=300,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Watch:
    """The process's own clocks, which the test moves; they stand still otherwise."""

    def __init__(self) -> None:
        self._monotonic = time.monotonic()
        self._time = time.time()

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._time += seconds

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._time


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr("segmentd.auth.authenticator.time", watch)
    return watch


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


async def looked(database: Database, rules: AccessRules = OPEN) -> Authenticator:
    """One that has looked once."""
    authenticator = Authenticator(database, rules)
    await authenticator.look()
    return authenticator


def jwts(file: Path | None = None) -> JwtVerifier:
    """Verifies JWTs of the first issuer of HS256, or of the issuers in the file."""
    key = issuer("HS256").key if file is None else None
    made = JwtVerifier.of(JwtRules(key=key, jwks_file=file, leeway_seconds=0, role_claim="role"))
    assert made is not None
    return made


def shown(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def refusal(authenticator: Authenticator, authorization: bytes | None) -> str:
    """The sentence with which somebody is refused."""
    with pytest.raises(Unauthenticated) as refused:
        authenticator.admit(authorization)
    assert refused.value.was_refused == (authorization is not None)
    return refused.value.detail


# Open to everybody, or not


async def test_without_tokens_everybody_is_let_in_whatever_they_show(database: Database) -> None:
    authenticator = await looked(database)

    for authorization in (None, b"", b"Bearer of news", b"Basic eDp5", b"\xff"):
        assert authenticator.admit(authorization) == ANONYMOUS


async def test_the_first_token_closes_the_service_from_the_next_look_on_for_good(database: Database) -> None:
    authenticator = await looked(database)
    secret = await new_token(database, "first")
    assert authenticator.admit(None) == ANONYMOUS

    await authenticator.look()

    refusal(authenticator, None)
    assert authenticator.admit(shown(secret)) == Principal("first", Role.READER)
    await revoke(database, "first")
    await authenticator.look()
    refusal(authenticator, None)
    refusal(authenticator, shown(secret))
    refusal(await looked(database), None)


async def test_where_it_may_not_be_open_nobody_is_let_in_without_a_token(database: Database) -> None:
    authenticator = await looked(database, OPEN._replace(may_be_open=False))

    refusal(authenticator, None)


async def test_with_keys_of_jwts_nobody_is_let_in_without_one(database: Database) -> None:
    authenticator = await looked(database, OPEN._replace(jwt=jwts()))

    refusal(authenticator, None)


async def test_before_the_database_was_ever_seen_it_is_not_known_who_may_call(database: Database) -> None:
    authenticator = Authenticator(database, OPEN)

    for authorization in (None, shown("x")):
        with pytest.raises(Unavailable):
            authenticator.admit(authorization)


# Tokens


@pytest.mark.parametrize("role", Role)
async def test_a_token_in_force_proves_its_name_and_role_each_time(database: Database, role: Role) -> None:
    secret = await new_token(database, "billing service", role)
    authenticator = await looked(database)

    for _ in range(3):
        assert authenticator.admit(shown(secret)) == Principal("billing service", role)


async def test_what_is_not_a_token_in_force_is_refused(database: Database) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database)

    for other in (secret[:-1], secret + "x", secret.upper(), digest_of(secret).hex(), "", secret + ".a.b"):
        assert refusal(authenticator, shown(other)) == "This token is not known, or was revoked."


async def test_the_scheme_is_bearer_in_any_case(database: Database) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database)

    for scheme in ("bearer", "BEARER", "Bearer "):
        assert authenticator.admit(f"{scheme} {secret}".encode()).name == "one"
    for header in (secret, f"Basic {secret}", f"Token {secret}", f" Bearer {secret}", f"Bearer\t{secret}"):
        refusal(authenticator, header.encode())


async def test_a_revoked_token_is_refused_from_the_next_look_on_though_it_was_remembered(
    database: Database,
) -> None:
    secret = await new_token(database, "one")
    await new_token(database, "another")
    authenticator = await looked(database)
    assert authenticator.admit(shown(secret)).name == "one"
    await revoke(database, "one")

    await authenticator.look()

    refusal(authenticator, shown(secret))


async def test_a_name_can_be_used_again_and_the_old_secret_stays_refused(database: Database) -> None:
    old = await new_token(database, "one", Role.READER)
    await revoke(database, "one")
    new = await new_token(database, "one", Role.ADMIN)
    authenticator = await looked(database)

    refusal(authenticator, shown(old))
    assert authenticator.admit(shown(new)) == Principal("one", Role.ADMIN)


async def test_a_token_ends_by_the_database_s_clock(database: Database, clock: Clock) -> None:
    secret = await new_token(database, "one", expires_at=clock.now() + timedelta(hours=1))
    authenticator = await looked(database)
    assert authenticator.admit(shown(secret)).name == "one"
    clock.advance(seconds=3601)

    fresh = await looked(database)

    assert refusal(fresh, shown(secret)) == "The token has expired."


async def test_a_token_ends_in_time_though_it_is_remembered_and_nobody_looks(
    database: Database, clock: Clock, watch: Watch
) -> None:
    secret = await new_token(database, "one", expires_at=clock.now() + timedelta(seconds=REMEMBERED_S / 2))
    authenticator = await looked(database)
    assert authenticator.admit(shown(secret)).name == "one"

    watch.advance(REMEMBERED_S / 2)

    assert refusal(authenticator, shown(secret)) == "The token has expired."


GARBAGE: Final = st.one_of(
    st.binary(),
    st.binary().map(lambda secret: b"Bearer " + secret),
    st.from_regex(rb"[Bb]earer [A-Za-z0-9_.=-]*", fullmatch=True),
    st.sampled_from([b"Bearer " + b"a" * size for size in (8185, 8192, 8193, 10**6)]),
    st.sampled_from([b"Bearer " + b"." * count for count in (1, 2, 3)]),
)


@pytest.mark.parametrize("jwt", [None, jwts()], ids=["tokens alone", "JWTs too"])
async def test_garbage_is_refused_as_unauthenticated(database: Database, jwt: JwtVerifier | None) -> None:
    await new_token(database, "one")
    authenticator = await looked(database, OPEN._replace(jwt=jwt))

    @MANY
    @given(GARBAGE)
    def is_refused(authorization: bytes) -> None:
        assert refusal(authenticator, authorization)

    is_refused()


async def test_no_more_is_remembered_than_there_is_room_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_REMEMBERED >= 1000
    monkeypatch.setattr("segmentd.auth.authenticator.MOST_REMEMBERED", 2)
    secrets = [await new_token(database, f"caller {number}") for number in range(5)]
    authenticator = await looked(database)

    for _ in range(2):
        names = [authenticator.admit(shown(secret)).name for secret in secrets]
        assert names == [f"caller {number}" for number in range(5)]


def grown(authenticator: Authenticator, authorizations: Iterable[bytes]) -> int:
    """By how many bytes this process grows when it admits all of these."""
    authenticator.admit(next(iter(authorizations)))
    tracemalloc.start()
    try:
        for authorization in authorizations:
            authenticator.admit(authorization)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


async def test_ten_thousand_spellings_of_one_token_take_no_room(database: Database) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database, OPEN._replace(jwt=jwts()))
    jwt = issuer("HS256").token()
    room = 8192 - max(len(secret), len(jwt))

    for credential in (secret, jwt):
        blanks = (b"bearer" + b" " * (room - number % 5000) + credential.encode() for number in range(10_000))
        assert grown(authenticator, blanks) < 2**16
    cases = ("".join(case) for case in product(*zip("bearer", "BEARER", strict=True)))
    spelt = [f"{case} {secret}{end}".encode() for case in cases for end in ("", " ", "\t", " \t ")]
    assert grown(authenticator, spelt) < 2**16


async def test_many_tokens_take_no_more_room_than_there_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, most_bytes = MOST_REMEMBERED // 10, MOST_REMEMBERED_BYTES // 10
    monkeypatch.setattr("segmentd.auth.authenticator.MOST_REMEMBERED", most)
    monkeypatch.setattr("segmentd.auth.authenticator.MOST_REMEMBERED_BYTES", most_bytes)
    authenticator = await looked(database, OPEN._replace(jwt=jwts()))
    by = issuer("HS256")
    long = [shown(by.token({**CLAIMS, "note": f"{number} {'x' * 5000}"})) for number in range(300)]
    short = [shown(by.token({**CLAIMS, "note": number})) for number in range(2 * most)]

    assert sum(map(len, long)) > 3 * most_bytes
    assert grown(authenticator, long) < 2 * most_bytes
    assert grown(authenticator, short) < 3 * most_bytes


# What stays of a token


async def test_the_database_keeps_the_hash_of_a_token_and_nothing_of_the_secret(
    database: Database, rows: Rows
) -> None:
    secret = await new_token(database, "one", Role.EDITOR)
    await looked(database)

    assert rows.column("SELECT digest FROM tokens") == [digest_of(secret)]
    kept = str(rows("SELECT t::text, encode(t.digest, 'escape') FROM tokens t"))
    kept += str(rows("SELECT a::text FROM audit_log a"))
    assert "one" in kept
    assert secret.removeprefix("segmentd_") not in kept
    assert secret.encode().hex() not in kept


async def test_the_day_of_the_last_use_is_noted_once_a_day(
    database: Database, rows: Rows, clock: Clock, watch: Watch
) -> None:
    secret = await new_token(database, "one")
    await new_token(database, "idle")
    authenticator = await looked(database, OPEN._replace(bound_seconds=math.inf))
    rows.run("CREATE TABLE noted (day date)")
    rows.run("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
             " INSERT INTO noted VALUES (NEW.last_used_on); RETURN NULL; END $$")  # fmt: skip
    rows.run("CREATE TRIGGER noting AFTER UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION note()")

    async def use() -> None:
        assert authenticator.admit(shown(secret)).name == "one"
        await authenticator.look()
        watch.advance(REMEMBERED_S)

    await use()
    today = clock.now().date()
    await use()
    clock.advance(days=1)
    await use()
    await use()

    assert rows.column("SELECT day FROM noted") == [today, today + timedelta(days=1)]
    assert rows("SELECT name FROM tokens WHERE last_used_on IS NULL") == [("idle",)]


async def test_changes_are_learnt_of_after_tokens_were_used(database: Database) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database)
    assert authenticator.admit(shown(secret)).name == "one"
    await authenticator.look()
    another = await new_token(database, "another")

    await authenticator.look()

    assert authenticator.admit(shown(secret)).name == "one"
    assert authenticator.admit(shown(another)).name == "another"


# Without the database


async def test_without_the_database_tokens_are_trusted_until_the_bound_and_no_longer(
    database: Database, watch: Watch
) -> None:
    secret, idle = await new_token(database, "one"), await new_token(database, "two")
    authenticator = await looked(database)
    assert authenticator.admit(shown(secret)).name == "one"

    watch.advance(49.9)

    assert authenticator.admit(shown(secret)).name == "one"
    assert authenticator.admit(shown(idle)).name == "two"
    refusal(authenticator, shown("x"))
    watch.advance(0.1)
    for authorization in (shown(secret), shown(idle), shown("x"), None):
        with pytest.raises(Unavailable):
            authenticator.admit(authorization)
    await authenticator.look()
    assert authenticator.admit(shown(secret)).name == "one"


async def test_without_the_database_an_open_service_is_open_until_the_bound(
    database: Database, watch: Watch
) -> None:
    authenticator = await looked(database)

    watch.advance(50)

    with pytest.raises(Unavailable):
        authenticator.admit(None)


async def test_without_a_bound_tokens_are_trusted_for_as_long_as_it_takes(
    database: Database, watch: Watch
) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database, OPEN._replace(bound_seconds=math.inf))

    watch.advance(1e8)

    assert authenticator.admit(shown(secret)).name == "one"
    refusal(authenticator, shown("x"))


async def test_a_look_at_a_database_that_is_away_changes_nothing_of_what_is_known(
    database_url: str, watch: Watch
) -> None:
    async with Database(database_url) as database:
        secret = await new_token(database, "one")
        authenticator = await looked(database)

    with pytest.raises(Unavailable):
        await authenticator.look()

    assert authenticator.admit(shown(secret)).name == "one"
    watch.advance(50)
    with pytest.raises(Unavailable):
        authenticator.admit(shown(secret))


async def test_a_watch_goes_on_by_itself(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentd.auth.authenticator.LOOK_EVERY_S", 0)
    authenticator = Authenticator(database, OPEN)
    async with authenticator.watching():
        assert authenticator.admit(None) == ANONYMOUS
        secret = await new_token(database, "one")
        while authenticator.admit(shown(secret)) == ANONYMOUS:
            await database.execute("SELECT")
        await revoke(database, "one")
        with suppress(Unauthenticated):
            while authenticator.admit(shown(secret)):
                await database.execute("SELECT")


# JWTs


async def test_jwts_and_tokens_are_taken_side_by_side(database: Database, watch: Watch) -> None:
    secret = await new_token(database, "one")
    authenticator = await looked(database, OPEN._replace(jwt=jwts()))
    good = issuer("HS256").token({**CLAIMS, "exp": watch.time() + 5})

    for _ in range(2):
        assert authenticator.admit(shown(good)) == Principal("importer", Role.EDITOR)
        assert authenticator.admit(shown(secret)) == Principal("one", Role.READER)
    watch.advance(5.1)
    assert refusal(authenticator, shown(good)) == "The JWT has expired."


async def test_jwts_need_no_database(database: Database, watch: Watch) -> None:
    never_looked = Authenticator(database, OPEN._replace(jwt=jwts()))
    good = issuer("HS256").token({**CLAIMS, "exp": watch.time() + 1000})

    assert never_looked.admit(shown(good)).name == "importer"
    watch.advance(999)
    assert never_looked.admit(shown(good)).name == "importer"
    refusal(never_looked, shown("a.b.c"))


async def test_a_jwt_whose_key_is_gone_is_refused_from_the_next_look_on_though_it_was_remembered(
    database: Database, watch: Watch, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    old, new = issuer("EdDSA"), issuer("EdDSA", 1)
    file.write_text(json.dumps({"keys": [old.jwk(kid="old")]}))
    authenticator = await looked(database, OPEN._replace(jwt=jwts(file)))
    claims = {**CLAIMS, "exp": watch.time() + 1000}
    assert authenticator.admit(shown(old.token(claims, kid="old"))).name == "importer"

    file.write_text(json.dumps({"keys": [new.jwk(kid="the new one")]}))
    await authenticator.look()

    refusal(authenticator, shown(old.token(claims, kid="old")))
    assert authenticator.admit(shown(new.token(claims, kid="the new one"))).name == "importer"


# Rates


async def test_a_caller_over_the_rate_gets_the_whole_seconds_to_wait(
    database: Database, tmp_path: Path
) -> None:
    one, other = await new_token(database, "one"), await new_token(database, "other")
    limit = RateLimit.open(tmp_path / "rates", 0.001, b"key")
    authenticator = await looked(database, OPEN._replace(rate_limit=limit))
    authenticator.admit(shown(one))

    with pytest.raises(TooManyRequests) as refused:
        authenticator.admit(shown(one))

    assert refused.value.retry_after == 1000
    assert authenticator.admit(shown(other)).name == "other"
    refusal(authenticator, shown("x"))
    limit.close()
