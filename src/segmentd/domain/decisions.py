"""What decides whether a user is in a segment, for doors that answer yes and no alike."""

import enum
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

FINGERPRINT_BYTES: Final = 12


class Decision(enum.IntEnum):
    """What decides about a user and a segment; SQL's current_decisions gives the same numbers."""

    NONE = 0
    """No override holds, and the segment has no percentage: the user is out."""
    UNCOVERED = 1
    """The percentage does not cover the user."""
    COVERED = 2
    """The percentage covers the user."""
    EXCLUDED = 3
    """An override excludes the user."""
    INCLUDED = 4
    """An override includes the user."""

    @property
    def member(self) -> bool:
        """Whether the user is in."""
        return self in _MEMBERS

    @property
    def source(self) -> str:
        """What kind of rule decides: `explicit`, `rollout` or `none`."""
        return _SOURCES[self]


class Decisions(NamedTuple):
    """The decision about one user and each living segment."""

    slugs: Sequence[bytes]
    """As JSON strings, sorted bytewise. The same object as long as the segments are the same."""
    codes: bytes
    """The number of the decision for each of them."""


class Fingerprints:
    """Short values that differ exactly where decisions about segments with these slugs do."""

    def __init__(self, slugs: Sequence[bytes]) -> None:
        self._key = blake2b(b",".join(slugs)).digest()

    def of(self, codes: bytes) -> bytes:
        """The fingerprint of the decisions about one user."""
        return blake2b(codes, key=self._key, digest_size=FINGERPRINT_BYTES).digest()


_MEMBERS: Final = frozenset({Decision.COVERED, Decision.INCLUDED})
_SOURCES: Final[Mapping[Decision, str]] = {
    Decision.NONE: "none",
    Decision.UNCOVERED: "rollout",
    Decision.COVERED: "rollout",
    Decision.EXCLUDED: "explicit",
    Decision.INCLUDED: "explicit",
}
