"""A plan: what has to be done so that the segments are those of a file. It does no I/O."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final, Literal

import msgspec

from segctl.failures import WrongUse
from segmentd_client.models import Segment

_UNSET: Final = msgspec.UNSET


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A segment of the file. What is not named stays as it is; `percent` null ends the percentage."""

    slug: str
    description: str | msgspec.UnsetType = _UNSET
    percent: Decimal | msgspec.UnsetType | None = _UNSET
    salt: int | str | msgspec.UnsetType = _UNSET


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of `apply`."""

    segments: Sequence[Wanted]


class Step(msgspec.Struct, frozen=True):
    """One thing to do; `before` and `after` have the fields that differ."""

    action: Literal["create", "change", "delete"]
    slug: str
    before: dict[str, str | float | None]
    after: dict[str, str | float | None]


def read(content: object) -> File:
    """The file from what its YAML says. Raises WrongUse."""
    try:
        file = msgspec.convert(content, File)
    except msgspec.ValidationError as error:
        raise WrongUse(f"the file is not acceptable: {error}") from None
    slugs = [each.slug for each in file.segments]
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise WrongUse(f"the file names {', '.join(twice)} twice")
    return file


def plan(file: File, present: Sequence[Segment], *, prune: bool) -> Sequence[Step]:
    """The steps, in the order in which they are made. Raises WrongUse for a salt that cannot be changed."""
    return [*_steps(file, {each.slug: each for each in present}, prune=prune)]


def _steps(file: File, present: dict[str, Segment], *, prune: bool) -> Iterator[Step]:
    if prune:
        for slug in sorted(present.keys() - {each.slug for each in file.segments}):
            yield Step("delete", slug, _fields(present[slug]), {})
    for wanted in file.segments:
        after = _named(wanted)
        found = present.get(wanted.slug)
        if found is None:
            yield Step(
                "create", wanted.slug, {}, {name: value for name, value in after.items() if value is not None}
            )
            continue
        before = _fields(found)
        if "salt" in after and after["salt"] != before["salt"]:
            raise WrongUse(f"{wanted.slug} has the salt {before['salt']}, which cannot be changed")
        if changed := {name: value for name, value in after.items() if before[name] != value}:
            yield Step("change", wanted.slug, {name: before[name] for name in changed}, changed)


def _named(wanted: Wanted) -> dict[str, str | float | None]:
    named: dict[str, str | float | None] = {}
    if wanted.description is not _UNSET:
        named["description"] = wanted.description
    if wanted.percent is not _UNSET:
        named["percent"] = None if wanted.percent is None else float(wanted.percent)
    if wanted.salt is not _UNSET:
        named["salt"] = str(wanted.salt)
    return named


def _fields(segment: Segment) -> dict[str, str | float | None]:
    return {"description": segment.description, "percent": segment.percent, "salt": segment.salt}
