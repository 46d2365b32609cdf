from datetime import UTC, datetime, timedelta, timezone

import pytest

from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.instants import LAST_INSTANT, Span, in_utc, read_instant, rfc3339


def test_an_instant_is_written_in_utc_with_six_digits_of_the_second() -> None:
    moscow = timezone(timedelta(hours=3))

    assert rfc3339(datetime(2026, 11, 20, 13, 15, 30, 123456, moscow)) == "2026-11-20T10:15:30.123456Z"
    assert rfc3339(datetime(2026, 11, 20, tzinfo=UTC)) == "2026-11-20T00:00:00.000000Z"


def test_early_and_late_years_have_four_digits() -> None:
    assert rfc3339(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000000Z"
    assert rfc3339(LAST_INSTANT) == "9999-12-31T23:59:59.999999Z"


def test_what_is_written_reads_back_as_the_same_instant() -> None:
    for instant in (datetime(987, 6, 5, 4, 3, 2, 1, UTC), LAST_INSTANT):
        assert datetime.fromisoformat(rfc3339(instant)) == instant


def test_an_offset_is_taken_into_account() -> None:
    instant = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=3)))

    assert in_utc(instant) == instant
    assert in_utc(instant).isoformat() == "2025-12-31T22:00:00+00:00"


def test_a_time_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        in_utc(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


@pytest.mark.parametrize(("year", "month", "hours"), [(1, 1, 10), (9999, 12, -10)])
def test_a_time_that_leaves_the_calendar_in_utc_is_refused(year: int, month: int, hours: int) -> None:
    day, hour = (1, 0) if hours > 0 else (31, 23)
    with pytest.raises(ValueError, match="1 to 9999"):
        in_utc(datetime(year, month, day, hour, tzinfo=timezone(timedelta(hours=hours))))


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+10:00"]
)
def test_a_text_that_names_no_instant_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="a time is written like 2026-11-20T10:15:30Z"):
        read_instant(text)


def test_a_text_names_an_instant_in_utc() -> None:
    assert read_instant("2026-01-01T01:00:00+03:00").isoformat() == "2025-12-31T22:00:00+00:00"


def test_a_span_ends_after_its_beginning() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)

    for good in (Span(), Span(early), Span(ends_at=early), Span(early, late)):
        good.check()
    for bad in (Span(late, early), Span(early, early)):
        with pytest.raises(Invalid) as refused:
            bad.check()
        assert refused.value.faults == (Fault("/to", "the end of the period must be after its beginning"),)
