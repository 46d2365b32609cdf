"""How every connection to PostgreSQL is opened: with our settings, whatever the server's are.

A database, a role, postgresql.conf, PGOPTIONS and the URL can each set how values are read and written, which
tables a name means, when a statement is cut off. Nothing here relies on their defaults.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import psycopg
import structlog
from psycopg.abc import AdaptContext, ConnParam
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import AsyncRowFactory, TupleRow

from segmentd.observability.throttled import ThrottledLog
from segmentd.storage.database_url import redacted

OLDEST_POSTGRESQL: Final = 15

PINNED: Final[Mapping[str, str]] = {
    # How values are written and read.
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "array_nulls": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    # Which tables a name means. Nobody's temporary table stands in for one of ours.
    "search_path": "public, pg_temp",
    # A policy that hides rows is an error, rather than a wrong answer.
    "row_security": "off",
    # Times are read after locks, by statements with snapshots of their own.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # A request ends long before these limits. They free the locks of a node that froze within a transaction.
    # Idle connections stay, because the listener and the pools need them.
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    # JIT costs more than these short statements.
    "jit": "off",
    "plan_cache_mode": "auto",
}
_PINNED_SINCE_17: Final[Mapping[str, str]] = {"transaction_timeout": "0"}
_17: Final = 170_000

# A server that disappeared without closing its connections, as when its network is cut, is noticed within
# about five seconds: with another primary, writes are back within ten (tests/serve/test_failing_over.py).
_VANISHED: Final = {
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}

_CONNECT_S: Final = 5
# One that is silent holds up each connection to those after it.
_CONNECT_TO_ONE_OF_SEVERAL_S: Final = 2

_log = structlog.get_logger(__name__)


def pins(server_version: int, scope: str = "SESSION") -> bytes:
    """The statements that pin a session, or a transaction (LOCAL), of a server of this version: 180001."""
    pinned = {**PINNED, **(_PINNED_SINCE_17 if server_version >= _17 else {})}
    # search_path is a list of names: as one quoted string it would be one name.
    values = {name: value if name == "search_path" else f"'{value}'" for name, value in pinned.items()}
    return "; ".join(f"SET {scope} {name} = {value}" for name, value in values.items()).encode()


class Reachability:
    """Why the database cannot be reached at present. Each reason is logged at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason: str | None = None
        """PostgreSQL's reason, in one line with no secret in it; None after any success."""
        self._throttled = ThrottledLog(_log, clock)

    def note_failure(self, error: Exception) -> None:
        """A connection could not be made, or broke."""
        self.reason = reason_of(error)
        self.say(self.reason)

    def note_success(self) -> None:
        """A connection was made, or answered."""
        self.reason = None

    def say(self, reason: str) -> None:
        """Logs a reason, unless it did so within this minute."""
        self._throttled.warning("database out of reach", error=reason)


class Session(psycopg.AsyncConnection[TupleRow]):
    """A connection with our settings. Pools make theirs by this class, others by its `connect`."""

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[TupleRow] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[TupleRow]] | None = None,
        # As wide as what psycopg's signature allows for any keyword.
        reachability: Reachability | ConnParam = None,
        pinned: ConnParam = True,
        **kwargs: ConnParam,
    ) -> Self:
        """As psycopg's, with our settings; `reachability`, if given, learns whether it succeeded."""
        parameters: dict[str, ConnParam] = {
            "application_name": "segmentd",
            **_patience(conninfo),
            **_VANISHED,
            **kwargs,
        }
        try:
            connection = await super().connect(
                conninfo,
                autocommit=True,
                prepare_threshold=prepare_threshold,
                context=context,
                row_factory=row_factory,
                cursor_factory=cursor_factory,
                **parameters,
            )
            if pinned:
                await connection.pin()
        except psycopg.Error as error:
            if isinstance(reachability, Reachability):
                reachability.note_failure(error)
            raise
        if isinstance(reachability, Reachability):
            reachability.note_success()
        await connection.set_autocommit(autocommit)
        return connection

    async def pin(self) -> None:
        """Sets our settings. Not as startup parameters: poolers refuse those that they do not know.

        Raises OperationalError on a standby, where an address leads to one for a while.
        """
        try:
            self._refuse_standby()
            # A pooler may pass on a session in which another client prepared statements under the same names.
            await self.execute(pins(self.info.server_version) + b"; DEALLOCATE ALL")
        except BaseException:
            await self.close()
            raise

    def _refuse_standby(self) -> None:
        # PostgreSQL reports it with each connection; a pooler may not.
        if self.info.parameter_status("in_hot_standby") == "on":
            raise psycopg.OperationalError("the server is a standby, which takes no writes")


def _patience(conninfo: str) -> Mapping[str, ConnParam]:
    """For how long a host is tried; of several hosts, the one that takes writes is wanted."""
    given = conninfo_to_dict(conninfo)
    if "," not in f"{given.get('host') or ''}{given.get('hostaddr') or ''}":
        return {"connect_timeout": _CONNECT_S}
    return {
        "connect_timeout": _CONNECT_TO_ONE_OF_SEVERAL_S,
        "target_session_attrs": given.get("target_session_attrs") or "read-write",
    }


def reason_of(error: BaseException) -> str:
    """An error's message, in one line; PostgreSQL's own words where it has any."""
    diagnosed: Any = getattr(error, "diag", None)
    primary = None if diagnosed is None else diagnosed.message_primary
    return redacted(primary or " ".join(str(error).split()) or type(error).__name__)
