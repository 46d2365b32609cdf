import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest

import segmentd.domain
from segmentd.domain.errors import Fault, Invalid, read
from segmentd.domain.identifiers import (
    SaltText,
    SlugValue,
    UserIdText,
    UserIdValue,
    read_salt,
    read_user_id,
)
from segmentd.domain.instants import InstantValue
from segmentd.domain.memberships import SlugsOfChange, TtlValue, UsersOfLookup
from segmentd.domain.pages import LimitValue
from segmentd.domain.segments import PercentValue
from segmentd.domain.texts import DescriptionValue, NameValue, ReasonValue
from segmentd.domain.wording import FORMS, fault_of


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """As any door may write one: with the types of the domain, and no rule of its own."""

    slug: SlugValue = msgspec.field(default=segmentd.domain.identifiers.Slug("A"))
    user_id: UserIdValue | UserIdText | None = None
    name: NameValue | None = None
    description: DescriptionValue | None = None
    reason: ReasonValue | None = None
    percent: PercentValue | None = None
    salt: SaltText | None = None
    ttl: TtlValue | None = None
    limit: LimitValue | None = None
    at: InstantValue | None = None
    slugs: SlugsOfChange[SlugValue] = ()
    users: UsersOfLookup[UserIdValue] = ()


SLUG = "a slug is 1 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit"
NUL = "a text must not contain the character NUL"
TIME = "a time is written like 2026-11-20T10:15:30Z, with an offset, within the years 1 to 9999"


@pytest.mark.parametrize(
    ("field", "bad", "words"),
    [
        ("slug", "", "must not be empty"),
        ("slug", "S" * 129, "must have at most 128 characters"),
        ("slug", "-A", SLUG),
        ("slug", "A\n", SLUG),
        ("user_id", 0, "must be at least 1"),
        ("user_id", 2**63, "must be at most 9223372036854775807"),
        ("user_id", "01", "an id as a string is 1 to 19 digits, not beginning with 0"),
        ("name", "n" * 257, "must have at most 256 characters"),
        ("name", "\0", NUL),
        ("description", "d" * 2001, "must have at most 2000 characters"),
        ("description", "\0", NUL),
        ("reason", "r" * 501, "must have at most 500 characters"),
        ("reason", "\0", NUL),
        ("percent", -0.1, "must be at least 0"),
        ("percent", 100.1, "must be at most 100"),
        ("salt", "+1", "a salt is a signed integer of 64 bits, written as a string of digits"),
        ("ttl", 0, "must be at least 1"),
        ("ttl", 10**12 + 1, "must be at most 1000000000000"),
        ("limit", 0, "must be at least 1"),
        ("limit", 1001, "must be at most 1000"),
        ("at", "2026-11-20T10:15:30", TIME),
        ("at", "yesterday", TIME),
        ("slugs", ["A"] * 1001, "must have at most 1000 items"),
        ("users", [1] * 1001, "must have at most 1000 items"),
    ],
)
def test_a_value_beyond_its_bound_is_refused_in_the_words_of_the_value(
    field: str, bad: object, words: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(msgspec.json.encode({field: bad}), type=Request)

    assert fault_of(str(refused.value)) == Fault(f"/{field}", words)


@pytest.mark.parametrize(
    "good",
    [
        {"slug": "S" * 128},
        {"user_id": 2**63 - 1},
        {"name": "n" * 256, "description": "d" * 2000, "reason": "r" * 500},
        {"percent": 0.0, "ttl": 10**12, "limit": 1000},
        {"slugs": ["A"] * 1000, "users": [1] * 1000},
    ],
)
def test_a_value_at_its_bound_is_taken(good: dict[str, object]) -> None:
    msgspec.json.decode(msgspec.json.encode(good), type=Request)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9223372036854775808", "must be at most 9223372036854775807"),
        ("0", "an id as a string is 1 to 19 digits, not beginning with 0"),
        ("1\n", "an id as a string is 1 to 19 digits, not beginning with 0"),
        ("٣", "an id as a string is 1 to 19 digits, not beginning with 0"),
    ],
)
def test_a_text_that_is_no_id_is_refused_where_it_stands(text: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(read_user_id, text, "/context/targetingKey")

    assert refused.value.faults == (Fault("/context/targetingKey", words),)


def test_ids_and_salts_are_read_to_their_last_value() -> None:
    assert read_user_id("9223372036854775807") == 2**63 - 1
    assert [read_salt("-9223372036854775808"), read_salt("9223372036854775807")] == [-(2**63), 2**63 - 1]
    for text in ("9223372036854775808", "1\n", "", "1.0"):
        with pytest.raises(ValueError, match="a salt is a signed integer of 64 bits"):
            read_salt(text)


def patterns(annotation: object) -> Iterator[str]:
    """Those that a type asks for, at any depth."""
    for inner in get_args(annotation):
        if isinstance(inner, msgspec.Meta) and inner.pattern:
            yield inner.pattern
        yield from patterns(inner)


def test_every_pattern_of_the_domain_has_words() -> None:
    modules = [
        importlib.import_module(f"segmentd.domain.{module.name}")
        for module in pkgutil.iter_modules(segmentd.domain.__path__)
    ]
    found = {pattern for module in modules for value in vars(module).values() for pattern in patterns(value)}

    assert found == {form.pattern for form in FORMS}
