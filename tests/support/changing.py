"""A change by SQL, for what no request can do: within a transaction of the test, or without a node."""

from typing import Final, LiteralString

CHANGE: Final[LiteralString] = """
    SELECT change_memberships(
        ARRAY [%s::bigint], '{test}', '{NULL}', '{NULL}',
        '{1}', ARRAY [%s], ARRAY [%s::boolean], '{NULL}', ARRAY [%s::bigint], true
    )
"""
"""One decision about one user. Parameters: the user, the slug, whether to add, a term in seconds or None."""
