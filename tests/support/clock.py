"""Time that tests move: it replaces the two SQL functions from which every time comes."""

from datetime import UTC, datetime, timedelta

import psycopg

_INSTALL = """
    CREATE TABLE moved_clock (ahead interval NOT NULL, stopped_at timestamptz);
    INSERT INTO moved_clock VALUES ('0');
    CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (SELECT coalesce(stopped_at, clock_timestamp()) + ahead FROM moved_clock);
    CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
        RETURN (SELECT coalesce(stopped_at, statement_timestamp()) + ahead FROM moved_clock);
"""


class Clock:
    """PostgreSQL's clock as the service under test sees it."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True)
        self._connection.execute(_INSTALL)

    def advance(self, *, seconds: float = 0, days: float = 0) -> None:
        """Lets time pass."""
        self._connection.execute(
            "UPDATE moved_clock SET ahead = ahead + %s", [timedelta(seconds=seconds, days=days)]
        )

    def stop(self) -> None:
        """From now on time passes only when it is let."""
        self._connection.execute("UPDATE moved_clock SET stopped_at = clock_timestamp()")

    def now(self) -> datetime:
        """The present instant."""
        row = self._connection.execute("SELECT clock_instant()").fetchone()
        assert row is not None
        instant: datetime = row[0]
        return instant.astimezone(UTC)

    def close(self) -> None:
        self._connection.close()
