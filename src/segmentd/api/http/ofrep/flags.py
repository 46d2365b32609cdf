"""Segments as boolean flags, written as JSON, and the entity tag of many of them."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from segmentd.domain.decisions import Decision, Decisions

_FINGERPRINT_BYTES: Final = 12
_REASONS: Final = {"explicit": "TARGETING_MATCH", "rollout": "SPLIT", "none": "STATIC"}


class FlagMetadata(msgspec.Struct, frozen=True):
    """What kind of rule decides."""

    source: Annotated[str, Meta(description="explicit, rollout or none", examples=["rollout"])]


class Flag(msgspec.Struct, frozen=True):
    """A segment as a flag: `value` says whether the user is in."""

    key: Annotated[str, Meta(description="the slug", examples=["AVITO_VOICE_MESSAGES"])]
    value: bool
    reason: Annotated[
        str,
        Meta(
            description="TARGETING_MATCH: an override decides; SPLIT: a percentage does; else STATIC",
            examples=["SPLIT"],
        ),
    ]
    variant: Annotated[str, Meta(description="on or off", examples=["on"])]
    metadata: FlagMetadata


class Flags(msgspec.Struct, frozen=True):
    """Every living segment as a flag, by slug."""

    flags: Sequence[Flag]


def written_flag(slug: bytes, decision: Decision) -> bytes:
    """`Flag` as JSON; the slug is a JSON string already."""
    value, variant = (b"true", b"on") if decision.member else (b"false", b"off")
    source = decision.source
    return b'{"key":%b,"value":%b,"reason":"%b","variant":"%b","metadata":{"source":"%b"}}' % (
        slug,
        value,
        _REASONS[source].encode(),
        variant,
        source.encode(),
    )


class WrittenFlags:
    """The flags of some segments, each with every decision, as JSON."""

    def __init__(self, slugs: Sequence[bytes]) -> None:
        self.slugs = slugs
        self._written = np.array(
            [written_flag(slug, decision) for slug in slugs for decision in Decision], dtype=np.object_
        )
        self._first = np.arange(len(slugs), dtype=np.intp) * len(Decision)
        self._key = blake2b(b",".join(slugs)).digest()

    def body(self, codes: NDArray[np.uint8]) -> bytes:
        """`Flags` as JSON."""
        return b'{"flags":[%b]}' % b",".join(self._written[self._first + codes].tolist())

    def fingerprint(self, codes: NDArray[np.uint8]) -> bytes:
        """Differs exactly where the flags differ; it costs a fortieth of a hash of the body."""
        return blake2b(codes.tobytes(), key=self._key, digest_size=_FINGERPRINT_BYTES).digest()


class FlagWriter:
    """Writes decisions as flags; keeps what was prepared for the latest segments."""

    def __init__(self) -> None:
        self._latest = WrittenFlags([])

    def prepared(self, decisions: Decisions) -> WrittenFlags:
        """The flags of the segments of these decisions."""
        if decisions.slugs is not self._latest.slugs:
            # A change of a percentage alone leaves the slugs as they are.
            if decisions.slugs != self._latest.slugs:
                self._latest = WrittenFlags(decisions.slugs)
            self._latest.slugs = decisions.slugs
        return self._latest
