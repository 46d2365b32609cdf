"""Numbers and flags in a URL are written in one way: digits alone, `true`, `false`.

msgspec reads a string as Python would: `1e3`, `1.0` and `9007199254740993.0` are integers to it, of which the
last one loses its end, and `1` or `True` is a flag.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from litestar.handlers import BaseRouteHandler
from litestar.typing import FieldDefinition

from segmentd.api.http.edge.guard import AnyConnection
from segmentd.domain.errors import Fault, Invalid


class Spelling(NamedTuple):
    """How the values of a type are written."""

    pattern: re.Pattern[str]
    wording: str


SPELLINGS: Final[Mapping[object, Spelling]] = {
    int: Spelling(re.compile("-?[1-9][0-9]*|0"), "must be an integer, in digits alone"),
    bool: Spelling(re.compile("true|false"), "must be true or false"),
}


class PlainValues:
    """A guard that refuses each number or flag of a path or query that is written otherwise."""

    def __init__(self) -> None:
        self._judged: dict[BaseRouteHandler, Sequence[tuple[str, Spelling]]] = {}

    async def __call__(self, connection: AnyConnection, handler: BaseRouteHandler) -> None:
        """Raises Invalid."""
        judged = self._judged.get(handler)
        if judged is None:
            judged = self._judged[handler] = [*_judged(handler)]
        if judged and (faults := [*_faults(connection, judged)]):
            raise Invalid(*faults)


def _judged(handler: BaseRouteHandler) -> Iterator[tuple[str, Spelling]]:
    for name, field in handler.parsed_fn_signature.parameters.items():
        for of_type in _types(field):
            if of_type in SPELLINGS:
                yield getattr(field.kwarg_definition, "name", None) or name, SPELLINGS[of_type]


def _types(field: FieldDefinition) -> Iterator[object]:
    for annotation in (field.annotation, *(inner.annotation for inner in field.inner_types)):
        yield getattr(annotation, "__supertype__", annotation)  # UserId is a name of int


def _faults(connection: AnyConnection, judged: Sequence[tuple[str, Spelling]]) -> Iterator[Fault]:
    path, query = connection.path_params, connection.query_params
    for name, spelling in judged:
        written = [path[name]] if name in path else query.getall(name, [])
        if not all(spelling.pattern.fullmatch(value) for value in written):
            yield Fault(f"/{name}", spelling.wording)
