"""Enums whose values are explained, for the people who read the documentation of an API."""

import enum
import inspect
from typing import Self


class Described(enum.StrEnum):
    """Each value has a sentence. The docstring of the enum lists them, as OpenAPI shows it."""

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    def __init_subclass__(cls) -> None:
        listed = "\n".join(f"- `{member}`: {member.sentence}" for member in cls)
        cls.__doc__ = f"{inspect.getdoc(cls)}\n\n{listed}"
