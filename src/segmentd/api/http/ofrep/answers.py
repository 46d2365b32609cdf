"""Headers of evaluations: caching and entity tags."""

from typing import Final

PRIVATE: Final = b"private, no-cache"


def entity_tag(fingerprint: bytes) -> bytes:
    """The strong entity tag of an answer with this fingerprint."""
    return b'"%b"' % fingerprint.hex().encode()


def is_named(none_match: str, etag: bytes) -> bool:
    """Whether `If-None-Match` names the entity tag, also as a weak one or without its quotes.

    OpenFeature's own example has no quotes, and proxies make strong tags weak.
    """
    if none_match.strip() == "*":
        return True
    bare = etag.decode().strip('"')
    return any(tag.strip().removeprefix("W/").strip('"') == bare for tag in none_match.split(","))
