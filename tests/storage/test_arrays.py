"""PostgreSQL reads the literals of arrays as what they were made of."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import LiteralString

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.storage import arrays
from tests.support.rows import Rows

FEW = settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.one_of(
    st.sampled_from(["", "NULL", "null", "{}", '"', "\\", ",", " ", '\\"', "a,b", "{a}", "\n", "ы"]),
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
)
instants = st.datetimes(
    datetime(1, 1, 2), datetime(9999, 12, 30),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("literal", "query", "elements"),
    [
        (arrays.texts, "SELECT unnest(%s::text[])", st.one_of(st.none(), texts)),
        (
            arrays.numbers,
            "SELECT unnest(%s::bigint[])",
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        ),
        (arrays.flags, "SELECT unnest(%s::boolean[])", st.booleans()),
        (arrays.instants, "SELECT unnest(%s::timestamptz[])", st.one_of(st.none(), instants)),
    ],
    ids=["texts", "numbers", "flags", "instants"],
)
def test_an_array_is_read_as_what_it_was_made_of(
    rows: Rows, literal: Callable[[object], str], query: LiteralString, elements: st.SearchStrategy[object]
) -> None:
    @FEW
    @given(st.lists(elements, max_size=8))
    def holds(values: list[object]) -> None:
        assert rows.column(query, literal(values)) == values

    holds()
