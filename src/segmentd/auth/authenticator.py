"""Who is calling: found from the `Authorization` header, without a question to the database."""

import asyncio
import hmac
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from segmentd.auth.known_tokens import Known, KnownTokens
from segmentd.auth.rate_limit import RateLimit
from segmentd.auth.tokens import TOKEN_BYTES, digest_of
from segmentd.background import background
from segmentd.domain.access import ANONYMOUS, Principal, Token, TokenId
from segmentd.domain.errors import TooManyRequests, Unauthenticated, Unavailable
from segmentd.observability.throttled import ThrottledLog
from segmentd.storage import tokens
from segmentd.storage.database import Database

if TYPE_CHECKING:
    from segmentd.auth.jwt import JwtVerifier  # with its ciphers, which few services need

# Every process has to refuse a revoked token within a second.
LOOK_EVERY_S: Final = 0.3
# After this time a token is looked up again, which also records that it is in use.
REMEMBERED_S: Final = 60.0
# Each remembered header takes its own length and about half a kilobyte.
MOST_REMEMBERED: Final = 10_000
MOST_REMEMBERED_BYTES: Final = 4 * 2**20
_BEARER: Final = b"Bearer "
_LONGEST_CREDENTIALS: Final = TOKEN_BYTES + len(_BEARER)

_log = structlog.get_logger(__name__)


class AccessRules(NamedTuple):
    """The operator's settings of access control."""

    may_be_open: bool
    """Whether everybody may do everything while there are neither tokens nor JWTs."""
    bound_seconds: float
    """For how long tokens stay trusted after they were last read from the database; infinite: always."""
    jwt: "JwtVerifier | None" = None
    rate_limit: RateLimit | None = None


class Authenticator:
    """Knows the tokens: it polls for changes several times a second (docs/decisions/0026).

    Without a database it polls what another process of this node left.
    """

    def __init__(
        self, database: Database | None, rules: AccessRules, left: KnownTokens | None = None
    ) -> None:
        self._database = database
        self._rules = rules
        self._left = left
        self._throttled = ThrottledLog(_log)
        self._known_until = -math.inf
        self._version = -1
        self._open = False
        self._by_digest: Mapping[bytes, Token] = {}
        self._clock_offset = timedelta()
        # Keyed by one spelling of the header, so that each credential is in it only once.
        self._remembered: dict[bytes, _Remembered] = {}
        self._remembered_bytes = 0
        self._used: set[TokenId] = set()
        self.known: tuple[Known, float] | None = None
        """What is known, and since when of the monotonic clock it has not been looked at again."""

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Follows the tokens as long as the context lives, beginning with what the database says now."""
        await self._look_or_go_on()
        if self._known_until == -math.inf and self._left is not None:
            self._take_over(self._left.found())
        async with background(self._watch(), "watch the tokens"):
            yield

    async def look(self) -> None:
        """Learns which tokens are in force, and notes which were used. Raises Unavailable."""
        if self._rules.jwt is not None and self._rules.jwt.reload():
            self._forget()
        if self._database is None:
            self._take_over(None if self._left is None else self._left.found())
            return
        begun = time.monotonic()
        state = await tokens.state(self._database)
        if state.version != self._version:
            found = await tokens.in_force(self._database)
            self._by_digest = {token.digest: token for token in found}
            self._version = state.version
            self._forget()
        known = Known(
            state.version, state.has_tokens, state.now - _monotonic(begun), [*self._by_digest.values()]
        )
        self._rely_on(known, begun)
        if self._left is not None:
            self._left.leave(known, begun)
        if used := set(self._used):
            await tokens.note_used(self._database, used)
            self._used -= used

    def _rely_on(self, known: Known, seen_at: float) -> None:
        self._open = self._rules.may_be_open and self._rules.jwt is None and not known.has_tokens
        self._clock_offset = known.clock_offset
        self._known_until = seen_at + self._rules.bound_seconds
        self.known = known, seen_at

    def _take_over(self, found: tuple[Known, float] | None) -> None:
        """Uses what another process of this node knew, for as long as that process could have used it."""
        if found is not None:
            known, seen_at = found
            if known.version != self._version:
                self._version = known.version
                self._forget()
            self._by_digest = {token.digest: token for token in known.tokens}
            self._rely_on(known, seen_at)

    def admit(self, authorization: bytes | None) -> Principal:
        """Who sends this `Authorization` header, if they may come now.

        Raises Unauthenticated, TooManyRequests, Unavailable where the tokens are not known well enough.
        """
        principal = self._identify(authorization)
        limit = self._rules.rate_limit
        if limit is not None and (seconds := limit.take(principal.name)):
            raise TooManyRequests(retry_after=math.ceil(seconds))
        return principal

    def _identify(self, authorization: bytes | None) -> Principal:
        now = time.monotonic()
        if now < self._known_until:
            if self._open:
                return ANONYMOUS
            remembered = self._recall(authorization or b"", now)
            if remembered is not None:
                return remembered
        return self._recognise(authorization, now)

    def _recognise(self, authorization: bytes | None, now: float) -> Principal:
        if authorization is None:
            # Without current knowledge of the tokens, access may still be open to everybody.
            self._check_known(now)
            raise Unauthenticated
        secret = _bearer(authorization)
        usual = _BEARER + secret.encode()
        if authorization != usual and now < self._known_until and (found := self._recall(usual, now)):
            return found
        jwt = self._rules.jwt
        if jwt is not None and secret.count(".") == 2:  # noqa: PLR2004 - header, payload and signature
            wall_clock = time.time()
            verified = jwt.verify(secret, wall_clock)
            return self._remember(usual, verified.principal, now + verified.expires_at - wall_clock)
        self._check_known(now)
        presented = digest_of(secret)
        token = self._by_digest.get(presented)
        if token is None or not hmac.compare_digest(token.digest, presented):
            raise Unauthenticated("This token is not known, or was revoked.")
        instant = _monotonic(now) + self._clock_offset
        if not token.holds(instant):
            raise Unauthenticated("The token has expired.")
        self._used.add(token.id)
        left = math.inf if token.expires_at is None else (token.expires_at - instant).total_seconds()
        return self._remember(usual, Principal(token.name, token.role), now + left)

    def _check_known(self, now: float) -> None:
        if now >= self._known_until:
            away = "The neighbour" if self._database is None else "The database"
            raise Unavailable(f"{away} is away, so it is not known who may call; try again shortly.")

    def _recall(self, authorization: bytes, now: float) -> Principal | None:
        # Safe against timing: the dictionary finds it by a randomly keyed hash before it compares the header.
        remembered = self._remembered.get(authorization)
        return remembered.principal if remembered is not None and now < remembered.until else None

    def _remember(self, authorization: bytes, principal: Principal, until: float) -> Principal:
        """Remembers the caller that the header proves; forgets the oldest ones if there are too many."""
        if authorization not in self._remembered:
            self._remembered_bytes += len(authorization)
        until = min(until, time.monotonic() + REMEMBERED_S)
        self._remembered[authorization] = _Remembered(principal, until)
        while len(self._remembered) > MOST_REMEMBERED or self._remembered_bytes > MOST_REMEMBERED_BYTES:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._remembered_bytes -= len(oldest)
        return principal

    def _forget(self) -> None:
        self._remembered.clear()
        self._remembered_bytes = 0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look_or_go_on()

    async def _look_or_go_on(self) -> None:
        try:
            await self.look()
        except Unavailable as error:
            self._throttled.warning("cannot look for changes of the tokens", error=error.detail)
        except Exception as error:  # noqa: BLE001 - without further polling a revocation would go unnoticed
            self._throttled.warning(
                "looking for changes of the tokens failed", error=str(error), exc_info=True
            )


class _Remembered(NamedTuple):
    principal: Principal
    until: float
    """By the monotonic clock."""


def _bearer(authorization: bytes) -> str:
    scheme, _, secret = authorization.partition(b" ")
    if len(authorization) > _LONGEST_CREDENTIALS or scheme.lower() != b"bearer":
        raise Unauthenticated("Only Authorization: Bearer TOKEN is understood.")
    try:
        return secret.strip().decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated("A token has no characters but ASCII.") from None


def _monotonic(seconds: float) -> datetime:
    """The monotonic clock as a time since 1970, for calculation."""
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
