"""Requests whose body may have any length, so that no fixed time bounds how long it takes to receive."""

from typing import Final

STREAMED: Final = frozenset(
    {("POST", "/api/v1/imports"), ("POST", "/api/v1/imports/"), ("POST", "/console/imports")}
)
"""Method and path."""
