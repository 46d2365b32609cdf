"""Values in a URL are written once and in one way: only digits, `true`, `false`.

msgspec reads a string as Python would: it takes `1e3`, `1.0` and `9007199254740993.0` as integers, the last
of which loses a digit, and `1` or `True` as a flag. If a parameter is given twice, the framework takes one
value and drops the other.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from litestar.handlers import BaseRouteHandler
from litestar.typing import FieldDefinition

from segmentd.api.http.edge.guard import AnyConnection
from segmentd.api.http.types import Ids
from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.exports import ExportFormat
from segmentd.domain.imports import ImportOperation


class Spelling(NamedTuple):
    """How the values of a type are written."""

    pattern: re.Pattern[str]
    wording: str


SPELLINGS: Final[Mapping[object, Spelling]] = {
    int: Spelling(re.compile("-?[1-9][0-9]*|0"), "must be an integer, in digits alone"),
    bool: Spelling(re.compile("true|false"), "must be true or false"),
    ExportFormat: Spelling(re.compile("|".join(ExportFormat)), f"must be {' or '.join(ExportFormat)}"),
    Ids: Spelling(re.compile("|".join(Ids)), f"must be {' or '.join(Ids)}"),
    ImportOperation: Spelling(
        re.compile("|".join(ImportOperation)), f"must be {' or '.join(ImportOperation)}"
    ),
}


class PlainValues:
    """A guard that refuses a value of a path or query that is written in another way, or twice."""

    def __init__(self) -> None:
        # By the function of a handler: of the handler itself, the framework makes a copy for each request.
        self._judged: dict[object, Sequence[tuple[str, Spelling | None]]] = {}

    async def __call__(self, connection: AnyConnection, handler: BaseRouteHandler) -> None:
        """Raises Invalid."""
        judged = self._judged.get(handler.fn)
        if judged is None:
            judged = self._judged[handler.fn] = [*_judged(handler)]
        if judged and (faults := [*_faults(connection, judged)]):
            raise Invalid(*faults)


def _judged(handler: BaseRouteHandler) -> Iterator[tuple[str, Spelling | None]]:
    for name, field in handler.parsed_fn_signature.parameters.items():
        spelling = next((SPELLINGS[each] for each in _types(field) if each in SPELLINGS), None)
        yield getattr(field.kwarg_definition, "name", None) or name, spelling


def _types(field: FieldDefinition) -> Iterator[object]:
    for annotation in (field.annotation, *(inner.annotation for inner in field.inner_types)):
        yield getattr(annotation, "__supertype__", annotation)  # UserId is a name of int


def _faults(connection: AnyConnection, judged: Sequence[tuple[str, Spelling | None]]) -> Iterator[Fault]:
    path, query = connection.path_params, connection.query_params
    for name, spelling in judged:
        written = [path[name]] if name in path else query.getall(name, [])
        if len(written) > 1:
            yield Fault(f"/{name}", "must be given once")
        elif spelling is not None and not all(map(spelling.pattern.fullmatch, written)):
            yield Fault(f"/{name}", spelling.wording)
