"""Slugs are compared and sorted by their bytes, whatever the locale of the database is."""

from pathlib import Path

import pytest

from tests.support.client import Json
from tests.support.rows import Rows
from tests.support.servers import binaries_with_icu, server
from tests.support.story import story

ICU = binaries_with_icu()


@pytest.mark.skipif(ICU is None, reason="no PostgreSQL with ICU is installed")
def test_a_locale_with_another_small_i_and_another_order_changes_nothing(
    usual_story: list[Json], tmp_path: Path
) -> None:
    """Turkish has a dotless small letter for `I`, and sorts `b` before `B` before `c`."""
    assert ICU is not None
    with server(ICU, "--locale-provider=icu", "--icu-locale=tr-TR", "--locale=C.UTF-8") as url:
        assert story(url, tmp_path / "icu") == usual_story


def test_every_index_of_slugs_and_the_column_itself_is_by_collation_c(rows: Rows) -> None:
    assert rows.column(
        "SELECT DISTINCT collname FROM pg_index i"
        " CROSS JOIN LATERAL unnest(i.indcollation::oid[]) AS used (collation_id)"
        " JOIN pg_collation c ON c.oid = used.collation_id WHERE i.indrelid = 'segments'::regclass"
    ) == ["C"]
    assert rows.column(
        "SELECT collname FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation"
        " WHERE attname = 'slug' AND attrelid = ANY (ARRAY['segments', 'living_segments']::regclass[])"
    ) == ["C", "C"]
