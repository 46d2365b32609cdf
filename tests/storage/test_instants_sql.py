"""The instant that a text names is one in SQL, where imports are checked, and in Python."""

from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segmentd.domain.instants import read_instant


def part(digits: int, *likely: str) -> st.SearchStrategy[str]:
    """A number of so many digits, mostly one of these."""
    return st.sampled_from(likely) | st.integers(0, 10**digits - 1).map(lambda value: f"{value:0{digits}}")


YEARS = part(4, "2024", "2100", "2000", "2025", "0001", "9999", "0000")
MONTHS = part(2, "01", "02", "04", "12", "00", "13")
DAYS = part(2, "01", "28", "29", "30", "31", "00")
HOURS = part(2, "00", "23", "24")
SIXTIETHS = part(2, "00", "59", "60")
FRACTIONS = st.sampled_from(["", "", ".", ".0", ".9999994", ".9999995", ".99999949999"]) | st.integers(
    0, 10**9
).map(".{}".format)
ZONES = st.one_of(
    st.sampled_from(["Z", "z", "", " Z", "+1", "UTC", "+00:00:00"]),
    st.tuples(st.sampled_from("+-"), HOURS, st.sampled_from([":", ""]), SIXTIETHS).map("".join),
)
TEXTS = st.one_of(
    st.tuples(
        YEARS,
        st.just("-"),
        MONTHS,
        st.just("-"),
        DAYS,
        st.sampled_from("TTt _"),
        HOURS,
        st.just(":"),
        SIXTIETHS,
        st.just(":"),
        SIXTIETHS,
        FRACTIONS,
        ZONES,
    ).map("".join),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    st.text(max_size=30).map(lambda text: text.replace("\0", "")),
)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:
        yield connection


def read(text: str) -> datetime | None:
    try:
        return read_instant(text)
    except ValueError:
        return None


@given(texts=st.lists(TEXTS, min_size=20, max_size=20))
@example(texts=["2024-02-29T23:59:59.9999999Z", "9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00+00:01"])
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_names_the_same_instant_in_an_import_and_in_a_request(
    connection: psycopg.Connection, texts: list[str]
) -> None:
    found = connection.execute(
        "SELECT rfc3339_instant(w.text)"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS w (text, place) ORDER BY w.place",
        [texts],
    ).fetchall()

    assert [(text, instant) for text, (instant,) in zip(texts, found, strict=True)] == [
        (text, read(text)) for text in texts
    ]
