"""Texts that people write: how long they may be, and what no text may contain."""

from typing import Annotated, Final, NamedTuple, NewType

from msgspec import Meta


class Form(NamedTuple):
    """The pattern of a text, as in JSON Schema, and the message for a text that does not match it."""

    pattern: str
    words: str


# PostgreSQL has no text with this character.
NO_NUL: Final = Form("^[^\u0000]*$", "a text must not contain the character NUL")

Description = NewType("Description", str)
"""Of a segment, for people who read."""

Name = NewType("Name", str)
"""Of a user, as the registering service gave it."""

Reason = NewType("Reason", str)
"""Why a user's segments were changed, as the caller says."""

# As they are in JSON: with their bounds.
DescriptionValue = Annotated[Description, Meta(max_length=2000, pattern=NO_NUL.pattern)]
NameValue = Annotated[Name, Meta(max_length=256, pattern=NO_NUL.pattern)]
ReasonValue = Annotated[Reason, Meta(max_length=500, pattern=NO_NUL.pattern)]
