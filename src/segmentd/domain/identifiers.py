"""User ids, slugs and salts: what they may be."""

import secrets
from typing import Final, NewType

UserId = NewType("UserId", int)
"""From 1 to 2^63 - 1."""

Slug = NewType("Slug", str)
"""A living segment's name, 1 to 128 ASCII characters; compared and sorted bytewise."""

Salt = NewType("Salt", int)
"""A signed 64-bit integer; segments with one salt share their cohort."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

# `(?!\n)$` and not `$` alone: Python's `$` also matches before a line feed at the end, and the
# pattern stands in the OpenAPI document too, where `\Z` means nothing.
SLUG_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(?!\n)$"
USER_ID_PATTERN: Final = r"^[1-9][0-9]{0,18}(?!\n)$"
SALT_PATTERN: Final = r"^-?[0-9]{1,19}(?!\n)$"


def random_salt() -> Salt:
    """A salt that no other segment has, for all that matters."""
    return Salt(secrets.randbits(64) + INT64_MIN)
