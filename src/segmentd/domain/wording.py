"""Translates msgspec's messages about bad values for people, with a pointer to the value."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from segmentd.domain.errors import Fault
from segmentd.domain.identifiers import SALT, SLUG, USER_ID
from segmentd.domain.instants import WRITE_A_TIME
from segmentd.domain.texts import NO_NUL

_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

# Every form that a value's type asks for.
FORMS: Final = (SLUG, USER_ID, SALT, NO_NUL)

_WORDS: Final[Mapping[str, str]] = {repr(form.pattern): form.words for form in FORMS}

_TYPES: Final[Mapping[str, str]] = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "datetime": "a time, as a string",
}


def fault_of(message: str) -> Fault:
    """A message of msgspec, ``Expected `int` >= 1 - at `$.add[0].ttl_seconds` ``, as a fault."""
    what, _, path = message.partition(" - at `")
    pointer = pointer_of(path.rstrip("`"))
    for form, worded in _UNKNOWN_OR_MISSING:
        if match := form.fullmatch(what):
            return Fault(f"{pointer}/{escaped(match[1])}", worded)
    return Fault(pointer, in_words(what))


def in_words(what: str) -> str:
    """What is wrong with a value; msgspec's own words if there are no better ones."""
    return next((words(match) for form, words in _FORMS if (match := form.fullmatch(what))), what)


def pointer_of(path: str) -> str:
    """Msgspec's `$.add[1].slug` as an RFC 6901 pointer, `/add/1/slug`."""
    steps = (name or index for name, index in _STEP.findall(path.removeprefix("$")))
    return "".join("/" + escaped(step) for step in steps)


def escaped(step: str) -> str:
    """One step of an RFC 6901 pointer."""
    return step.replace("~", "~0").replace("/", "~1")


def _type_names(types: str) -> str:
    return " or ".join(_TYPES.get(name, name) for name in types.split(" | "))


def _pattern(match: re.Match[str]) -> str:
    return _WORDS.get(match[1], f"must match {match[1]}")


_UNKNOWN_OR_MISSING: Final = (
    (re.compile("Object contains unknown field `(.*)`", re.DOTALL), "there is no such field"),
    (re.compile("Object missing required field `(.*)`"), "this field is required"),
)

_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (
        re.compile("Expected `(.+)`, got `(.+)`"),
        lambda match: f"must be {_type_names(match[1])}, not {_type_names(match[2])}",
    ),
    (
        re.compile(r"Expected `(?:int|float)` >= (-?\d+)(?:\.0)?"),
        lambda match: f"must be at least {match[1]}",
    ),
    (re.compile(r"Expected `(?:int|float)` <= (-?\d+)(?:\.0)?"), lambda match: f"must be at most {match[1]}"),
    (re.compile("Expected `str` of length >= 1"), lambda _: "must not be empty"),
    (
        re.compile(r"Expected `str` of length <= (\d+)"),
        lambda match: f"must have at most {match[1]} characters",
    ),
    (re.compile(r"Expected `array` of length <= (\d+)"), lambda match: f"must have at most {match[1]} items"),
    (re.compile("Expected `str` matching regex (.+)"), _pattern),
    (re.compile("Expected `datetime` with a timezone component"), lambda _: WRITE_A_TIME),
    (re.compile("Invalid RFC3339 encoded datetime"), lambda _: WRITE_A_TIME),
    (re.compile("(?:Number|Integer value) out of range"), lambda _: "the number is out of range"),
)
