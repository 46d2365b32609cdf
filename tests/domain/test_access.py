from datetime import UTC, datetime, timedelta

import pytest

from segmentd.domain.access import Role, Token, TokenId, read_caller_name, read_on_behalf_of

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "holds"), [(None, True), (timedelta.resolution, True), (timedelta(), False)]
)
def test_a_token_holds_until_it_expires_and_no_longer(left: timedelta | None, *, holds: bool) -> None:
    expires_at = None if left is None else NOW + left

    assert Token(TokenId(1), "a", Role.READER, b"", NOW, expires_at, None, None).holds(NOW) is holds


@pytest.mark.parametrize("name", ["a", "billing service", "~" * 128, "Ops (night) #2"])
def test_a_caller_is_named_in_visible_characters(name: str) -> None:
    assert read_caller_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a  b", "a\tb", "a\n", "é", "~" * 129, None, 7])
def test_what_is_no_name_of_a_caller_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="not a name of 1 to 128 visible characters"):
        read_caller_name(name)


@pytest.mark.parametrize("name", ["anonymous", "segmentd"])
def test_names_of_nobody_in_particular_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name that this service keeps for itself"):
        read_caller_name(name)


@pytest.mark.parametrize("name", ["Zoë", "и" * 256, "a  b"])
def test_a_request_is_made_for_somebody_with_a_printable_name(name: str) -> None:
    assert read_on_behalf_of(name) == name


@pytest.mark.parametrize("name", ["", "a\tb", "a\u200bb", "и" * 257])
def test_a_name_that_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 256 printable characters"):
        read_on_behalf_of(name)
