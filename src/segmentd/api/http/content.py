"""What a body is said to be: its media type and its coding."""

from collections.abc import Sequence
from typing import Final

from litestar.exceptions import HTTPException

UTF_8: Final = frozenset({"", "utf-8", "utf8"})
GZIP: Final = frozenset({"gzip", "x-gzip"})


def media_type(said: Sequence[str], known: Sequence[str]) -> str:
    """The one of the known types that `Content-Type` names, in UTF-8; else 415."""
    named, *parameters = (said[0] if len(said) == 1 else "").lower().split(";")
    pairs = [parameter.partition("=") for parameter in parameters]
    charsets = {value.strip(' \t"') for name, _, value in pairs if name.strip() == "charset"}
    if named.strip() not in known or not charsets <= UTF_8:
        given = {0: "has no Content-Type", 1: "is of another type"}.get(len(said), "has several types")
        raise HTTPException(
            status_code=415,
            detail=f"The body must be {' or '.join(known)} in UTF-8; this one {given}.",
            headers={"Accept": ", ".join(known)},
        )
    return named.strip()


def is_gzipped(said: Sequence[str]) -> bool:
    """Whether `Content-Encoding` names gzip, once; 415 for other codings, identity aside."""
    codings = codings_of(said)
    if len(codings) > 1 or not {*codings} <= GZIP:
        raise unknown_coding(codings, "send the rows as they are, or with gzip", "gzip, identity")
    return bool(codings)


def codings_of(said: Sequence[str]) -> list[str]:
    """The codings that `Content-Encoding` names, besides identity."""
    codings = [coding.strip() for value in said for coding in value.split(",")]
    return [coding.lower() for coding in codings if coding.lower() not in {"", "identity"}]


def unknown_coding(codings: Sequence[str], instead: str, known: str) -> HTTPException:
    """415, with what would be understood."""
    return HTTPException(
        status_code=415,
        detail=f"The content coding {', '.join(codings)} is not known here; {instead}.",
        headers={"Accept-Encoding": known},
    )
