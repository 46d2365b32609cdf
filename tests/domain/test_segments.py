from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentd.domain.identifiers import INT64_MAX, INT64_MIN, random_salt
from segmentd.domain.segments import exact_percent, shortest


@given(st.integers(0, 1_000_000))
def test_every_percentage_of_four_decimals_is_taken_exactly_and_answered_the_same(parts: int) -> None:
    number = parts / 10_000

    percent = exact_percent(number)

    assert percent == Decimal(parts) / 10_000
    assert shortest(percent) == number


@pytest.mark.parametrize("number", [0.00001, 1e-10, 99.99999, 5e-324, 0.1 + 0.2, 33.333333])
def test_more_than_four_decimals_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="four decimals"):
        exact_percent(number)


@pytest.mark.parametrize("number", [-0.0001, 100.0001, 1e300, float("inf"), float("-inf")])
def test_what_is_not_from_0_to_100_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        exact_percent(number)


@pytest.mark.parametrize(
    ("percent", "form"),
    [("10.0000", "10"), ("12.5000", "12.5"), ("0.0001", "0.0001"), ("0.0000", "0"), ("100.0000", "100")],
)
def test_the_shortest_form_has_no_zeros_to_spare(percent: str, form: str) -> None:
    assert repr(shortest(Decimal(percent))) == form


def test_random_salts_are_signed_numbers_of_64_bits() -> None:
    salts = [random_salt() for _ in range(1000)]

    assert len({*salts}) == 1000
    assert INT64_MIN <= min(salts) < INT64_MIN // 2
    assert INT64_MAX // 2 < max(salts) <= INT64_MAX
