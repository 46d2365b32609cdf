"""User ids, slugs and salts: what they may be."""

import re
import secrets
from typing import Annotated, Final, NewType
from uuid import UUID

from msgspec import Meta

from segmentd.domain.texts import Form

UserId = NewType("UserId", int)
"""From 1 to 2^63 - 1."""

Slug = NewType("Slug", str)
"""A living segment's name, 1 to 128 ASCII characters; compared and sorted bytewise."""

SlugPart = NewType("SlugPart", str)
"""A part of a slug, in any case, by which segments are found."""

Salt = NewType("Salt", int)
"""A signed 64-bit integer; segments with one salt share their cohort."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

# The id of a user in digits; one of 19 digits may still be too large.
USER_ID_DIGITS: Final = "[1-9][0-9]{0,18}"

# `(?!\n)$` and not `$` alone: Python's `$` also matches before a line feed at the end, and the
# pattern stands in the OpenAPI document too, where `\Z` means nothing.
SLUG: Final = Form(
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(?!\n)$",
    "a slug is 1 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit",
)
USER_ID: Final = Form(
    rf"^{USER_ID_DIGITS}(?!\n)$", "an id as a string is 1 to 19 digits, not beginning with 0"
)
SALT: Final = Form(
    r"^-?[0-9]{1,19}(?!\n)$", "a salt is a signed integer of 64 bits, written as a string of digits"
)

_UUID: Final = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

# As they are in JSON, with their bounds. For texts of digits, the functions below check the rest.
UserIdValue = Annotated[
    UserId,
    Meta(
        ge=1,
        le=INT64_MAX,
        description="from 1 to 2^63 - 1",
        examples=[1000],
    ),
]
UserIdText = Annotated[str, Meta(pattern=USER_ID.pattern, examples=["1000"])]
SlugValue = Annotated[
    Slug,
    Meta(
        min_length=1,
        max_length=128,
        pattern=SLUG.pattern,
        description="1 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit",
        examples=["AVITO_VOICE_MESSAGES"],
    ),
]
SaltText = Annotated[str, Meta(pattern=SALT.pattern, description="a signed 64-bit integer", examples=["22"])]


def read_user_id(text: str) -> UserId:
    """The id in a text of digits. Raises ValueError."""
    if not re.fullmatch(USER_ID_DIGITS, text):
        raise ValueError(USER_ID.words)
    if int(text) > INT64_MAX:
        raise ValueError(f"must be at most {INT64_MAX}")
    return UserId(int(text))


def read_uuid(text: str) -> UUID:
    """The UUID in a text. Raises ValueError."""
    # Python's UUID reads braces, underscores and the digits of other scripts as well.
    if _UUID.fullmatch(text) is None:
        raise ValueError("not a UUID")
    return UUID(text)


def read_slug(text: str) -> Slug:
    """The slug in a text. Raises ValueError."""
    if not re.search(SLUG.pattern, text):
        raise ValueError(SLUG.words)
    return Slug(text)


def read_slug_part(text: str) -> SlugPart:
    """The part of a slug in a text. Raises ValueError for what no slug has in it."""
    if not re.fullmatch("[A-Za-z0-9_.-]{1,128}", text):
        raise ValueError("a slug has no characters but A-Z a-z 0-9 _ . -, 128 at most")
    return SlugPart(text)


def read_salt(text: str) -> Salt:
    """The salt in a text of digits. Raises ValueError."""
    if not re.search(SALT.pattern, text):
        raise ValueError(SALT.words)
    if not INT64_MIN <= int(text) <= INT64_MAX:
        raise ValueError("a salt is a signed integer of 64 bits")
    return Salt(int(text))


def random_salt() -> Salt:
    """A random salt: in practice no other segment has it."""
    return Salt(secrets.randbits(64) + INT64_MIN)
