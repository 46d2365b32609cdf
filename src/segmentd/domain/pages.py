"""Pages of long lists: a page ends with an opaque cursor, from which the next one goes on."""

import base64
import binascii
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Generic, TypeVar

import msgspec

from segmentd.domain.errors import Fault, Invalid

Item = TypeVar("Item")
Key = TypeVar("Key")

LARGEST_PAGE: Final = 1000
USUAL_PAGE: Final = 100

_DIGEST_BYTES: Final = 6


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """Some items of a list; `next_cursor` is None on the last page, and only there."""

    items: Sequence[Item]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Sequence[Item], limit: int, cursor_after: Callable[[Item], str]) -> "Page[Item]":
        """A page out of up to `limit + 1` items: the one too many shows that there are more."""
        items = found[:limit]
        return cls(items, cursor_after(items[-1]) if len(found) > limit else None)


def encode_cursor(listing: str, key: object) -> str:
    """A cursor that goes on after `key` (any msgspec-encodable value) in the list named `listing`."""
    return _sealed(listing, msgspec.msgpack.encode(key))


def decode_cursor(listing: str, cursor: str | None, key_type: type[Key]) -> Key | None:
    """The key in a cursor, None for the list's beginning.

    Raises Invalid for a cursor that this service did not make for this very list.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        payload = raw[_DIGEST_BYTES:]
        # Compared as text: the last character of base64 has bits that decoding overlooks.
        if cursor == _sealed(listing, payload):
            return msgspec.msgpack.decode(payload, type=key_type)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        pass  # falls through to the one answer for every kind of damage
    raise Invalid(Fault("/cursor", "not a cursor of this list; take next_cursor of a page, or leave it out"))


def _sealed(listing: str, payload: bytes) -> str:
    return base64.urlsafe_b64encode(_digest(listing, payload) + payload).rstrip(b"=").decode()


def _digest(listing: str, payload: bytes) -> bytes:
    """Finds typing errors and cursors of other lists; a cursor holds no secret, so no key is needed."""
    return blake2b(
        payload, digest_size=_DIGEST_BYTES, person=blake2b(listing.encode(), digest_size=16).digest()
    ).digest()
