"""Queries directly to a test's database, for what no request shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg


class Rows:
    """A connection of the test; each statement is a transaction."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __call__(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one query."""
        return self._connection.execute(query, parameters).fetchall()

    def column(self, query: LiteralString, *parameters: object) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self(query, *parameters)]

    def run(self, statement: LiteralString, *parameters: object, **named: object) -> None:
        """A statement that returns no rows; its parameters have either no names or names."""
        self._connection.execute(statement, named or parameters)


@contextmanager
def rows_of(url: str) -> Iterator[Rows]:
    """Queries to the database at a URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield Rows(connection)
