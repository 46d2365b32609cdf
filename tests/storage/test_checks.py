"""What PostgreSQL checks is what the domain says."""

import re
from typing import get_args

import msgspec
import psycopg
import pytest

from segmentd.domain.access import RESERVED_NAMES, Role
from segmentd.domain.audit import AuditOperation
from segmentd.domain.identifiers import SLUG
from segmentd.domain.memberships import Cause, Operation
from segmentd.domain.reports import Status
from segmentd.domain.segments import PercentValue
from segmentd.domain.texts import DescriptionValue, NameValue, ReasonValue
from tests.support.rows import Rows


@pytest.fixture
def checks(database_url: str) -> list[str]:
    """Each as PostgreSQL writes it, after its table's name."""
    with psycopg.connect(database_url) as connection:
        return [
            f"{table}: {check}"
            for table, check in connection.execute(
                "SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"
            )
        ]


def one_of(checks: list[str], start: str) -> set[str]:
    """The texts of the one check that begins so."""
    [check] = [check for check in checks if check.startswith(start)]
    return {*re.findall(r"'([^']+)'", check)}


@pytest.mark.parametrize(
    ("start", "values"),
    [
        ("audit_log: CHECK ((operation = ", {*AuditOperation}),
        ("tokens: CHECK ((role = ", {*Role}),
        ("tokens: CHECK ((name <> ", {*RESERVED_NAMES}),
        ("reports: CHECK ((status = ", {*Status}),
    ],
)
def test_the_values_of_an_enum_are_those_that_postgresql_takes(
    checks: list[str], start: str, values: set[str]
) -> None:
    assert one_of(checks, start) == values


def bounds(value_type: object) -> msgspec.Meta:
    """Those of a type of the domain."""
    [meta] = [found for found in get_args(value_type) if isinstance(found, msgspec.Meta)]
    return meta


def test_the_longest_texts_are_those_that_postgresql_takes(checks: list[str]) -> None:
    assert f"users: CHECK ((length(name) <= {bounds(NameValue).max_length}))" in checks
    assert f"segments: CHECK ((length(description) <= {bounds(DescriptionValue).max_length}))" in checks
    assert f"membership_events: CHECK ((length(reason) <= {bounds(ReasonValue).max_length}))" in checks


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("event_operation", {*Operation}),
        # What a percentage does to its users is computed, and stored nowhere.
        ("event_cause", {*Cause} - {Cause.ROLLOUT}),
    ],
)
def test_the_values_of_an_event_are_those_of_an_enum_of_postgresql(
    rows: Rows, name: str, values: set[str]
) -> None:
    found = rows.column("SELECT enumlabel FROM pg_enum WHERE enumtypid = to_regtype(%s)", name)
    assert {*found} == values


def test_a_slug_and_a_percentage_are_those_that_postgresql_takes(checks: list[str]) -> None:
    percent = bounds(PercentValue)
    pattern = SLUG.pattern.replace(r"(?!\n)", "")  # PostgreSQL's $ is the end, and nothing before it

    assert one_of(checks, "segments: CHECK ((slug ~ ") == {pattern}
    [check] = [check for check in checks if "(percent >= " in check]
    assert re.findall(r"\((\d+)\)::numeric", check) == [str(percent.ge), str(percent.le)]
