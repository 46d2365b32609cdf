"""Segments as boolean flags, written as JSON, and the entity tag of many of them."""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from segmentd.api.http.ofrep.answers import entity_tag
from segmentd.api.http.ofrep.event_links import EventLinks, fingerprint_with, written_streams
from segmentd.domain.decisions import Decision, Decisions, Fingerprints
from segmentd.domain.identifiers import UserId

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


class EventStreamEndpoint(msgspec.Struct, frozen=True):
    """Below the provider's own address."""

    request_uri: Annotated[str, Meta(description="path and query")] = msgspec.field(name="requestUri")


class EventStream(msgspec.Struct, frozen=True):
    """Server-sent events that say when the flags are others."""

    type: Annotated[str, Meta(examples=["sse"])]
    endpoint: EventStreamEndpoint
    inactivity_delay_sec: Annotated[
        int, Meta(description="after so many seconds in the background a client closes the stream")
    ] = msgspec.field(name="inactivityDelaySec")


class Flags(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every living segment as a flag, by slug."""

    flags: Sequence[Flag]
    event_streams: Sequence[EventStream] = msgspec.field(name="eventStreams", default=())


def _after_key(decision: Decision) -> bytes:
    value, variant = (b"true", b"on") if decision.member else (b"false", b"off")
    source = decision.source
    return b'"value":%b,"reason":"%b","variant":"%b","metadata":{"source":"%b"}}' % (
        value,
        _REASONS[source].encode(),
        variant,
        source.encode(),
    )


_AFTER_KEY: Final = [*map(_after_key, sorted(Decision))]


def written_flag(slug: bytes, decision: Decision) -> bytes:
    """`Flag` as JSON; the slug is a JSON string already."""
    return b'{"key":%b,%b' % (slug, _AFTER_KEY[decision])


class WrittenFlags:
    """The flags of some segments, each with every decision, as JSON."""

    def __init__(self, slugs: Sequence[bytes]) -> None:
        self.slugs = slugs
        self._written = np.array(
            [written_flag(slug, decision) for slug in slugs for decision in Decision], dtype=np.object_
        )
        self._first = np.arange(len(slugs), dtype=np.intp) * len(Decision)
        self.fingerprints = Fingerprints(slugs)

    def answer(self, user_id: UserId, codes: bytes, links: EventLinks | None, prefix: str = "") -> "AllFlags":
        """The answer to a user with these decisions; `prefix` stands before the paths of this service."""
        fingerprint = self.fingerprints.of(codes)
        path = None if links is None else links.path(user_id, fingerprint)
        if path is None:
            return AllFlags(self, codes, b"", entity_tag(fingerprint))
        etag = entity_tag(fingerprint_with(fingerprint, prefix + path))
        return AllFlags(self, codes, written_streams(prefix + path), etag)

    def joined(self, codes: bytes, before: bytes, after: bytes) -> bytes:
        """The flags with these decisions, with commas between, and with something before and after."""
        written: list[bytes] = self._written[self._first + np.frombuffer(codes, np.uint8)].tolist()
        if not written:
            return before + after
        # So that many bytes are copied once.
        written[0] = before + written[0]
        written[-1] += after
        return b",".join(written)


class AllFlags(NamedTuple):
    """All flags of a user, not written yet, and the entity tag of what will be written."""

    flags: WrittenFlags
    codes: bytes
    streams: bytes
    etag: bytes

    def body(self) -> bytes:
        """`Flags` as JSON."""
        return self.flags.joined(self.codes, b'{"flags":[', b"]%b}" % self.streams)


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
