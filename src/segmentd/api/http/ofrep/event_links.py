"""Links of event streams: signed, for one user, and good for an hour at most.

A page's EventSource sends no headers, so the link is the only proof. It is the same for half an hour, so that
it makes no answer another one meanwhile; the half hours of different users begin at different times.
"""

import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

from segmentd.domain.decisions import FINGERPRINT_BYTES
from segmentd.domain.errors import Denied
from segmentd.domain.identifiers import UserId
from segmentd.storage.signing_keys import SigningKeys

EVENTS: Final = "/ofrep/v1/events"
RENEWED_EVERY_S: Final = 1800
_INACTIVITY_S: Final = 120
_REFUSED: Final = "The link of the event stream is wrong or has expired; ask for the flags again."


class EventLink(NamedTuple):
    """Whose flags are watched, which of them the client has, and until when (seconds since 1970)."""

    user_id: UserId
    seen: str
    until: int

    @property
    def renewed_at(self) -> int:
        """When answers begin to have another link."""
        return self.until - RENEWED_EVERY_S

    def signature(self, key: bytes) -> str:
        """HMAC-SHA256 in URL-safe Base64, 43 characters."""
        text = b"segmentd events %d %b %d" % (self.user_id, self.seen.encode(), self.until)
        return urlsafe_b64encode(hmac.digest(key, text, sha256)).rstrip(b"=").decode()


class EventLinks:
    """Makes links and reads them."""

    def __init__(self, keys: SigningKeys, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self.clock = clock

    def path(self, user_id: UserId, fingerprint: bytes) -> str | None:
        """The path and query for a user with these flags; None while no key is known."""
        if not self._keys.known:
            return None
        phase = user_id * 2_654_435_761 % RENEWED_EVERY_S
        half_hours = (int(self.clock()) + phase) // RENEWED_EVERY_S
        link = EventLink(user_id, fingerprint.hex(), (half_hours + 2) * RENEWED_EVERY_S - phase)
        signature = link.signature(self._keys.known[0])
        return f"{EVENTS}?user={user_id}&seen={link.seen}&until={link.until}&signature={signature}"

    def read(self, user: str, seen: str, until: str, signature: str) -> EventLink:
        """The link with these parameters. Raises Denied for one that was not made here, or has expired."""
        if not (user.isdecimal() and until.isdecimal()) or not (user + until + seen + signature).isascii():
            raise Denied(_REFUSED)
        link = EventLink(UserId(int(user[:20])), seen, int(until[:20]))
        good = [hmac.compare_digest(link.signature(key), signature) for key in self._keys.known]
        if not any(good) or link.until <= self.clock():
            raise Denied(_REFUSED)
        return link


def written_streams(path: str) -> bytes:
    """The member `eventStreams` of an answer."""
    return b',"eventStreams":[{"type":"sse","endpoint":{"requestUri":"%b"},"inactivityDelaySec":%d}]' % (
        path.encode(),
        _INACTIVITY_S,
    )


def fingerprint_with(fingerprint: bytes, path: str) -> bytes:
    """The fingerprint of an answer that has this link too."""
    return blake2b(path.encode(), key=fingerprint, digest_size=FINGERPRINT_BYTES).digest()
