"""A node without a database knows the tokens of its neighbour, for no longer than it may."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.known_tokens import KnownTokens
from segmentd.auth.told_tokens import TokenTeller, ToldHere, ToldTokens
from segmentd.domain.access import Principal, Role
from segmentd.domain.errors import Unauthenticated, Unavailable
from segmentd.storage import tokens
from segmentd.storage.database import Database
from tests.support.tokens import new_token, revoke

CLOSED = AccessRules(may_be_open=False, bound_seconds=50)
OPEN = AccessRules(may_be_open=True, bound_seconds=50)


class Pair:
    """The authenticator of a node with a database, and those of a node that asks it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.near = Authenticator(database, CLOSED)
        self.left = KnownTokens(folder)
        self.far = Authenticator(None, CLOSED, self.left)
        self.far_open = Authenticator(None, OPEN, self.left)
        self.told = ToldHere(self._ask, self.left)
        self.sent: list[ToldTokens] = []

    async def pass_on(self) -> None:
        """What the database has comes to the other node."""
        await self.near.look()
        await self.told.look()
        await self.far.look()
        await self.far_open.look()

    async def _ask(self, known: int | None) -> ToldTokens:
        told = await TokenTeller(self.near).tell(known, 0)
        self.sent.append(told)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=ToldTokens)


@pytest.fixture
def pair(database: Database, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(database, tmp_path)
    with closing(pair.left):
        yield pair


async def test_tokens_and_revocations_come_along_and_are_sent_only_once(
    pair: Pair, database: Database
) -> None:
    with pytest.raises(Unavailable, match="neighbour"):
        pair.far.admit(b"Bearer nobody")
    await pair.pass_on()
    assert pair.far_open.admit(None).name == "anonymous"
    with pytest.raises(Unauthenticated):
        pair.far.admit(None)

    secret = await new_token(database, "web-shop", Role.READER)
    bearer = f"Bearer {secret}".encode()
    await pair.pass_on()
    await pair.pass_on()
    assert pair.far.admit(bearer) == Principal("web-shop", Role.READER)
    assert [told.tokens is None for told in pair.sent] == [False, False, True]
    assert secret.encode() not in msgspec.msgpack.encode(pair.sent)
    with pytest.raises(Unauthenticated):  # there are tokens now
        pair.far_open.admit(None)

    await revoke(database, "web-shop")
    await pair.pass_on()
    with pytest.raises(Unauthenticated):
        pair.far.admit(bearer)


async def test_a_token_ends_at_its_time_by_the_clock_of_the_database(pair: Pair, database: Database) -> None:
    state = await tokens.state(database)
    soon = state.now + timedelta(milliseconds=300)
    secret = await new_token(database, "short", Role.READER, soon)
    bearer = f"Bearer {secret}".encode()
    await pair.pass_on()
    assert pair.far.admit(bearer).name == "short"
    while (await tokens.state(database)).now < soon:
        pass
    with pytest.raises(Unauthenticated, match=r"expired|not known"):
        pair.far.admit(bearer)


async def test_tokens_are_trusted_no_longer_than_since_the_neighbour_looked(pair: Pair) -> None:
    await pair.near.look()
    known = pair.near.known
    assert known is not None
    pair.near.known = known[0], known[1] - 49  # it has not reached the database for so long
    await pair.told.look()
    found = pair.left.found()
    assert found is not None
    _, seen_at = found
    assert 49 <= time.monotonic() - seen_at < 50
    assert found[0].clock_offset + timedelta(seconds=time.monotonic()) - (
        datetime.now(UTC) - datetime.fromtimestamp(0, UTC)
    ) < timedelta(seconds=5)
