from datetime import UTC, datetime
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentd.domain.errors import Invalid
from segmentd.domain.pages import Limit, Page, decode_cursor, encode_cursor

Key = TypeVar("Key")


class Place(msgspec.Struct, frozen=True, array_like=True):
    at: datetime
    slug: str


def keys_of(key_type: type[Key]) -> msgspec.msgpack.Decoder[Key]:
    return msgspec.msgpack.Decoder(key_type)


@given(st.text())
def test_a_cursor_gives_back_the_text_that_it_was_made_of(key: str) -> None:
    assert decode_cursor("segments", encode_cursor("segments", key), keys_of(str)) == key


@given(st.integers(1, 2**63 - 1))
def test_a_cursor_gives_back_the_number_that_it_was_made_of(key: int) -> None:
    assert decode_cursor("users", encode_cursor("users", key), keys_of(int)) == key


def test_a_cursor_gives_back_a_place_to_the_microsecond() -> None:
    place = Place(datetime(2026, 11, 20, 10, 15, 30, 123456, tzinfo=UTC), "A")

    assert decode_cursor("history", encode_cursor("history", place), keys_of(Place)) == place


def test_no_cursor_is_the_beginning() -> None:
    assert decode_cursor("users", None, keys_of(int)) is None


@pytest.mark.parametrize("listing", ["user", "users ", "", "segments"])
def test_a_cursor_of_another_list_is_refused(listing: str) -> None:
    with pytest.raises(Invalid, match="not a cursor of this list"):
        decode_cursor(listing, encode_cursor("users", 1000), keys_of(int))


@pytest.mark.parametrize("key", [1, 1000, 2**40, 2**63 - 1])
def test_a_cursor_with_any_character_changed_cut_or_added_is_refused(key: int) -> None:
    cursor = encode_cursor("users", key)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \n\0é"
    broken = {
        cursor[:at] + other + cursor[at + 1 :] for at in range(len(cursor)) for other in ["", *alphabet]
    }
    broken |= {cursor[:at] + other + cursor[at:] for at in range(len(cursor) + 1) for other in alphabet}
    broken |= {cursor[:at] for at in range(len(cursor))}

    for text in broken - {cursor}:
        with pytest.raises(Invalid):
            decode_cursor("users", text, keys_of(int))


@given(st.text())
def test_whatever_is_not_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_cursor("users", text, keys_of(int))
    assert [fault.pointer for fault in refused.value.faults] == ["/cursor"]


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(Invalid):
        decode_cursor("users", encode_cursor("users", "A"), keys_of(int))


def test_the_one_row_too_many_shows_that_there_are_more() -> None:
    page = Page[int].of([1, 2, 3], Limit(2), str)

    assert (page.items, page.next_cursor) == ([1, 2], "2")
    assert Page[int].of([1, 2], Limit(2), str).next_cursor is None
    assert Page[int].of([], Limit(2), str) == Page([], None)
