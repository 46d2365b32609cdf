"""What a file means, row by row: headers, separators, quotes, objects; and what is wrong with a bad one."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentd.domain.imports import BadRow
from segmentd.imports.csv_rows import CsvRows
from segmentd.imports.json_rows import JsonRows
from segmentd.imports.lines import BadFile, Lines, Run
from segmentd.imports.rows import COLUMNS, SEPARATOR, Block, Reader

Values = dict[int, list[str]]


def staged(reader: Reader, runs: Iterable[Run]) -> tuple[Values, list[BadRow]]:
    """The values of COLUMNS of each row by its line, as the database takes them out of the blocks."""
    rows: Values = {}
    bad: list[BadRow] = []
    for item in [*(each for run in runs for each in reader.take(run)), *reader.end()]:
        if isinstance(item, BadRow):
            bad.append(item)
            continue
        found = {line: text for line, text in enumerate(item.content.split("\n"), item.first_line) if text}
        assert len(found) == item.rows
        rows |= {line: values_of(reader, item, text) for line, text in found.items()}
    return rows, bad


def values_of(reader: Reader, block: Block, text: str) -> list[str]:
    if block.parsed:
        return text.split(SEPARATOR)[: len(COLUMNS)]
    assert reader.layout is not None
    values = text.split(reader.layout.separator) if reader.layout.separator else [text]
    places = reader.layout.places
    return [values[places[name] - 1] if name in places else "" for name in COLUMNS]


def read(text: str, reader: Reader | None = None) -> tuple[Values, list[BadRow]]:
    return staged(reader or CsvRows(), [Run(1, text)])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1000", {1: ["1000", "", "", "", ""]}),
        ("1000\n\n1002\n", {1: ["1000", "", "", "", ""], 3: ["1002", "", "", "", ""]}),
        ("user_id\n1000", {2: ["1000", "", "", "", ""]}),
        ("1000;A;add;2026-11-20T10:00:00Z", {1: ["1000", "A", "add", "", ""]}),
        ("1000\tA", {1: ["1000", "A", "", "", ""]}),
        ("ttl_seconds,segment,user_id\n60,A,1000", {2: ["1000", "A", "", "", "60"]}),
        ("User_ID ; SEGMENT\n1000;A", {2: ["1000", "A", "", "", ""]}),
        ('"user_id","note"\n"1000","a, ""b""\nc"\n1002,', {2: ["1000"] + [""] * 4, 4: ["1002"] + [""] * 4}),
        ("user_id;source;since;until\n1;explicit;x;y", {2: ["1", "", "", "y", ""]}),
        ("note;note;user_id\n;;1", {2: ["1", "", "", "", ""]}),
        ("\n\n1000", {3: ["1000", "", "", "", ""]}),
        ('a"b;user_id\n1"2;1000', {2: ["1000", "", "", "", ""]}),
        ("-1;A", {1: ["-1", "A", "", "", ""]}),
        ("", {}),
    ],
)
def test_a_file_of_csv_means_its_rows(text: str, rows: Values) -> None:
    assert read(text) == (rows, [])


@pytest.mark.parametrize(
    ("text", "line", "detail"),
    [
        ("segment;operation\nA;add", 1, "column 1: the first line is neither a row,"),
        ("user_id;segment;segment\n1;A;B", 1, "column 3 (segment): the header names it twice"),
        ("user_id;USER_ID\n1;2", 1, "column 2 (user_id): the header names it twice"),
        ("1;A;add;x;y", 1, "column 5: a file without a header has at most the columns of a report, user_id,"),
        ('\n"user_id\n1', 2, "column 1: the quote is not closed"),
        ('x;"user_id"s\n1', 1, "column 2: there is more behind the closing quote"),
    ],
)
def test_a_file_whose_first_line_says_nothing_is_refused(text: str, line: int, detail: str) -> None:
    with pytest.raises(BadFile, match="column") as refused:
        read(text)
    assert refused.value.row.line == line
    assert refused.value.row.detail.startswith(detail)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ('1;A\n"2";A;B\n3;A', BadRow(2, "has 3 columns, and the first line has 2", '"2";A;B')),
        ('1;A\n"2;A\n3;A', BadRow(2, "column 1: the quote is not closed", '"2;A')),
        ('1;A\n2;"A\n3;A', BadRow(2, "column 2: the quote is not closed", '2;"A')),
        ('1;A\n2;"A"B\n3;A', BadRow(2, "column 2: there is more behind the closing quote", '2;"A"B')),
        ('1;A\n2;"A""\n3;A', BadRow(2, "column 2: the quote is not closed", '2;"A""')),
    ],
)
def test_a_bad_row_has_its_line_and_column_and_the_rows_around_it_are_good(text: str, bad: BadRow) -> None:
    assert read(text) == ({1: ["1", "A", "", "", ""], 3: ["3", "A", "", "", ""]}, [bad])


def test_an_open_quote_costs_no_more_than_a_long_line() -> None:
    runs = [Run(1, '1;A\n2;"A'), *(Run(3 + 9000 * number, "\n".join(["3;A"] * 9000)) for number in range(4))]
    rows, bad = staged(CsvRows(), runs)

    assert bad == [BadRow(2, "column 2: the quote is not closed", '2;"A')]
    assert len(rows) == 36_001


cells = st.text(st.sampled_from('a1;,"\n\t '), max_size=6)


@given(
    st.sampled_from([";", ",", "\t"]),
    st.lists(st.lists(cells, min_size=2, max_size=2), max_size=8),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.lists(st.integers(0, 200), max_size=3),
)
def test_what_another_program_writes_is_read_whatever_the_runs(
    separator: str, rows: Sequence[Sequence[str]], quoting: Literal[0, 1], places: Sequence[int]
) -> None:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, quoting=quoting, lineterminator="\n")
    writer.writerows([["user_id", "segment", "note"], *(["1000", *row] for row in rows)])
    lines = written.getvalue().split("\n")
    ends = [0, *sorted(min(place, len(lines)) for place in places), len(lines)]
    runs = [Run(begin + 1, "\n".join(lines[begin:end])) for begin, end in pairwise(ends) if end > begin]
    found, bad = staged(CsvRows(), runs)

    assert bad == []
    assert [values[1] for values in found.values()] == [
        row[0].replace("\n", "\N{RETURN SYMBOL}") for row in rows
    ]


# Objects


def objects(*lines: str) -> tuple[Values, list[BadRow]]:
    return staged(JsonRows(), [Run(1, "\n".join(lines))])


members = st.fixed_dictionaries(
    {"user_id": st.integers(1, 2**63 - 1)},
    optional={
        "segment": st.just("A-1"),
        "operation": st.sampled_from(["add", "remove", "Ünsinn\n"]),
        "until": st.text(max_size=5),
        "ttl_seconds": st.integers(1, 10**12),
        "source": st.just({"user_id": 1}),
    },
)


@given(st.lists(members, min_size=1), st.sampled_from([int, str]), st.sampled_from([True, False]))
def test_objects_mean_what_their_names_say(
    rows: Sequence[dict[str, object]], written: Callable[[object], object], ascii_only: object
) -> None:
    lines = [
        json.dumps(row | {"user_id": written(row["user_id"])}, ensure_ascii=bool(ascii_only)) for row in rows
    ]
    found, bad = objects(*lines)

    assert bad == []
    for row, values in zip(rows, found.values(), strict=True):
        for name, value in zip(COLUMNS, values, strict=True):
            assert value == str(row.get(name, "")).replace("\n", "\N{RETURN SYMBOL}").replace(SEPARATOR, "�")


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("[1]", "must be an object, not a list"),
        ("{}", "user_id: this field is required"),
        ('{"user_id": 0}', "user_id: must be at least 1"),
        ('{"user_id": 9223372036854775808}', "user_id: must be at most 9223372036854775807"),
        ('{"user_id": "01"}', "user_id: an id as a string is 1 to 19 digits, not beginning with 0"),
        ('{"user_id": 1.5}', "user_id: must be an integer or a string, not a number"),
        ('{"user_id": 1, "segment": "a b"}', "segment: a slug is 1 to 128 of"),
        ('{"user_id": 1, "ttl_seconds": 0}', "ttl_seconds: must be at least 1"),
        ('{"user_id": 1, "user_id": 2}', "user_id: this key stands twice in one object"),
        (
            '{"user_id": 1, "segm\\u0065nt": "A", "segment": "B"}',
            "segment: this key stands twice in one object",
        ),
        ('{"user_id": 1', "not well-formed JSON"),
        ('{"user_id": 1} {"user_id": 2}', "not well-formed JSON at byte 16"),
        ('{"user_id": 1, "x": ' + "[" * 100_000, "not well-formed JSON: it is nested too deeply"),
    ],
)
def test_a_bad_object_is_a_bad_row(line: str, detail: str) -> None:
    good = '{"user_id": 1}'
    rows, [bad] = objects(good, line, "", good)

    assert [*rows] == [1, 4]
    assert (bad.line, bad.text) == (2, line[:200])
    assert bad.detail.startswith(detail)


def test_a_line_of_the_file_has_its_number_in_the_rows() -> None:
    lines, reader = Lines(), CsvRows()
    body = "".join(f"{number};A\n" if number % 3 else "\n" for number in range(1, 30_001)).encode()
    items = [*lines.feed(body), *lines.end()]
    rows, bad = staged(reader, [item for item in items if isinstance(item, Run)])

    assert bad == []
    assert {line: int(values[0]) for line, values in rows.items()} == {
        number: number for number in range(1, 30_001) if number % 3
    }
