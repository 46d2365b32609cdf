"""Pages of long lists: a page ends with an opaque cursor, at which the next one begins."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Annotated, Final, Generic, NamedTuple, NewType, TypeVar

import msgspec

from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.identifiers import INT64_MAX, Slug, SlugValue, UserId, UserIdValue

Item = TypeVar("Item")
Key = TypeVar("Key")

# The types that the key of a list may have: anything else in a cursor never reaches the database.
RowKey = Annotated[int, msgspec.Meta(ge=1, le=INT64_MAX)]

USER_KEYS: Final[msgspec.msgpack.Decoder[UserId]] = msgspec.msgpack.Decoder(UserIdValue)
SLUG_KEYS: Final[msgspec.msgpack.Decoder[Slug]] = msgspec.msgpack.Decoder(SlugValue)

Limit = NewType("Limit", int)
"""How many items a page has, at most."""

LimitValue = Annotated[Limit, msgspec.Meta(ge=1, le=1000)]
USUAL_PAGE: Final = Limit(100)

_DIGEST_BYTES: Final = 6


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """Some items of a list; `next_cursor` is None on the last page, and only there."""

    items: Sequence[Item]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Sequence[Item], limit: Limit, cursor_after: Callable[[Item], str]) -> "Page[Item]":
        """A page from up to `limit + 1` items: the extra one shows that there are more."""
        items = found[:limit]
        return cls(items, cursor_after(items[-1]) if len(found) > limit else None)


class Listing(NamedTuple, Generic[Key]):
    """A list that is read page by page: its name, which its cursors hold, and the form of its keys."""

    name: str
    keys: msgspec.msgpack.Decoder[Key]

    async def page(
        self,
        listed: Callable[[Key | None, int], Awaitable[Sequence[Item]]],
        key_of: Callable[[Item], object],
        limit: Limit,
        cursor: str | None,
    ) -> Page[Item]:
        """A page of what `listed` gives after a key, up to a number. Raises Invalid."""
        found = await listed(self.key_in(cursor), limit + 1)
        return Page[Item].of(found, limit, lambda last: self.cursor_after(key_of(last)))

    def key_in(self, cursor: str | None) -> Key | None:
        """The key of a cursor, None for the list's beginning. Raises Invalid."""
        return decode_cursor(self.name, cursor, self.keys)

    def cursor_after(self, key: object) -> str:
        """A cursor that goes on after the key."""
        return encode_cursor(self.name, key)


def encode_cursor(listing: str, key: object) -> str:
    """A cursor to continue after `key` (any msgspec-encodable value) in the list named `listing`."""
    return _sealed(listing, msgspec.msgpack.encode(key))


def decode_cursor(listing: str, cursor: str | None, keys: msgspec.msgpack.Decoder[Key]) -> Key | None:
    """The key in a cursor, None for the list's beginning.

    Raises Invalid for a cursor of another list, and for one whose key `keys` does not accept: the seal is no
    secret, so a cursor may hold anything.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        payload = raw[_DIGEST_BYTES:]
        # Compared as text: the last character of base64 has bits that decoding ignores.
        if cursor == _sealed(listing, payload):
            return keys.decode(payload)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        pass  # continues to the one answer for every kind of damage
    raise Invalid(Fault("/cursor", "not a cursor of this list; take next_cursor of a page, or leave it out"))


def _sealed(listing: str, payload: bytes) -> str:
    return base64.urlsafe_b64encode(_digest(listing, payload) + payload).rstrip(b"=").decode()


def _digest(listing: str, payload: bytes) -> bytes:
    """Detects typing errors and cursors of other lists. Anybody can compute it, so no key is trusted."""
    return blake2b(
        payload, digest_size=_DIGEST_BYTES, person=blake2b(listing.encode(), digest_size=16).digest()
    ).digest()
