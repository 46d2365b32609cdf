"""Whatever the pieces in which bytes come, the lines are the same, and no line is too much for the memory."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segmentd.domain.imports import BadRow
from segmentd.imports.lines import LONGEST_LINE, RUN_BYTES, BadFile, Gunzip, Identity, Lines, Run

Read = tuple[list[str], list[BadRow]]


def lines_of(pieces: Iterable[bytes]) -> Read:
    """The lines by their numbers, and the bad ones."""
    lines, found, bad = Lines(), [""], []
    for item in [*(each for piece in pieces for each in lines.feed(piece)), *lines.end()]:
        if isinstance(item, Run):
            assert item.first_line == len(found)
            found += item.text.split("\n")
        else:
            bad.append(item)
    assert len(found) == lines.line
    return found[1:], sorted(bad, key=lambda row: row.line)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[begin:end] for begin, end in pairwise([0, *sorted(places), len(data)])]


PIECES = {
    **{name: name.encode() for name in ("\n", "\r\n", "\r", "a", "1000;A", "я", "\0", '"')},
    "not UTF-8": b"\xff",
    "long": b"x" * 30_000,
    "many": b"\r\n" * RUN_BYTES,
    "a long line": b"x" * LONGEST_LINE,
}


@given(st.lists(st.sampled_from([*PIECES])), st.lists(st.integers(0, 200_000), max_size=5))
@example(["a", "a long line", "\n", "a"], [LONGEST_LINE + 1])
@example(["many"], [1])
def test_the_pieces_do_not_matter(names: list[str], places: list[int]) -> None:
    data = b"".join(PIECES[name] for name in names)

    assert lines_of(cut(data, places)) == lines_of([data]) == lines_of(cut(data, range(0, len(data), 999)))


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=10)))
def test_lines_of_text_come_as_they_are(texts: list[str]) -> None:
    found, bad = lines_of([line.encode() + b"\r\n" for line in texts])

    assert (found, bad) == (texts, [])


@pytest.mark.parametrize(
    ("data", "bad", "left"),
    [
        (
            b"1\n2\xff;A\n3",
            BadRow(2, "byte 2 of the line is not UTF-8; save the file as UTF-8", "2�;A"),
            "1  3",
        ),
        (b"1\n2\0\n3", BadRow(2, "character 2 of the line is NUL", "2�"), "1  3"),
        (
            b"1\n" + b"x" * (LONGEST_LINE + 1) + b"\n3",
            BadRow(2, f"the line has more than {LONGEST_LINE} bytes", "x" * 200),
            "1  3",
        ),
    ],
    ids=["not UTF-8", "NUL", "too long"],
)
def test_a_line_that_is_no_text_is_a_bad_row_and_the_others_stay(data: bytes, bad: BadRow, left: str) -> None:
    assert lines_of([data]) == (left.split(" "), [bad])


def test_a_line_of_the_greatest_length_is_good() -> None:
    assert lines_of([b"x" * LONGEST_LINE + b"\n1"]) == (["x" * LONGEST_LINE, "1"], [])


def test_a_byte_order_mark_is_no_text() -> None:
    assert lines_of([b"\xef\xbb", b"\xbf1\n"]) == (["1"], [])


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be"])
def test_a_file_in_utf_16_is_refused_in_words(coding: str) -> None:
    with pytest.raises(BadFile) as refused:
        lines_of([b"\xfe\xff" * (coding == "utf-16-be") + "1000".encode(coding)])
    assert refused.value.row == BadRow(1, "byte 1: the file is UTF-16; save it as UTF-8", "")


def test_a_line_without_an_end_takes_no_more_memory_than_a_long_line() -> None:
    lines = Lines()
    kept = []
    for _ in range(100):
        for item in lines.feed(b"x" * RUN_BYTES):
            assert isinstance(item, BadRow)
        kept.append(len(lines._kept))  # noqa: SLF001 - what it costs
    assert max(kept) <= LONGEST_LINE + RUN_BYTES


# Compression


def gunzipped(pieces: Iterable[bytes]) -> bytes:
    decoder = Gunzip()
    found = b"".join(each for piece in pieces for each in decoder.feed(piece))
    decoder.end()
    return found


@given(
    st.lists(st.binary(max_size=100_000), min_size=1, max_size=3),
    st.lists(st.integers(0, 200_000), max_size=4),
)
def test_gzip_is_undone_whatever_its_members_and_pieces(members: list[bytes], places: list[int]) -> None:
    body = b"".join(map(gzip.compress, members))

    assert gunzipped(cut(body, places)) == b"".join(members)


def test_no_piece_of_what_is_undone_is_large() -> None:
    for decoder, body in ((Gunzip(), gzip.compress(b"1000\n" * 100_000)), (Identity(), b"x" * 500_000)):
        assert max(map(len, decoder.feed(body))) <= RUN_BYTES


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda body: body[:-1], "ends before its end"),
        (lambda _: b"", "ends before its end"),
        (lambda body: body + b"1000;A", "damaged"),
        (lambda body: body[:-8] + bytes(8), "damaged"),
        (lambda _: b"1000;A\n", "damaged"),
        (lambda _: gzip.compress(bytes(2**25)), "expands to more than 200 times"),
    ],
    ids=["cut off", "empty", "more behind it", "another checksum", "not gzip", "a bomb"],
)
def test_damaged_gzip_is_refused(damage: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gunzipped([damage(gzip.compress(b"1000;A\n" * 1000))])


def test_a_bomb_is_refused_before_it_is_undone() -> None:
    pieces = Gunzip().feed(zlib.compress(bytes(2**25), wbits=31))
    undone = 0
    with pytest.raises(ValueError, match="expands"):  # noqa: PT012 - it is raised by one of many pieces
        for piece in pieces:
            undone += len(piece)
    assert undone < 2**24
