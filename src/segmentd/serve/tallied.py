"""The calls whose durations are counted by tallies, in one order for all processes of a node.

By their names alone: the process that runs the jobs loads no door.
"""

from typing import Final

TALLIED: Final = (
    ("GET", "/api/v1/users/{user_id}/segments", "200"),
    ("POST", "/api/v1/lookup", "200"),
    ("POST", "/ofrep/v1/evaluate/flags/{key}", "200"),
    ("POST", "/ofrep/v1/evaluate/flags", "200"),
    ("POST", "/ofrep/v1/evaluate/flags", "304"),
    ("POST", "/segmentd.v1.Memberships/ListUserSegments", "200"),
    ("POST", "/segmentd.v1.Memberships/LookUp", "200"),
)
"""Method, route and status of each; the path of gRPC is its route."""
