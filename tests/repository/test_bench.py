"""The benchmarks' own parts: the made-up data, the statistics, the table. No test measures a time."""

import os
import signal
import subprocess
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import grpc
import numpy as np
import psycopg
import pytest
from rich.console import Console

from bench.__main__ import ROWS, main
from bench.changing import CHANGE, CHANGES
from bench.figures import Figure, Skipped, Spread, Target, quantile
from bench.grpc_load import Calls, put_calls
from bench.loading import load_events, load_more_segments, load_users
from bench.others.products import growthbook, unleash
from bench.pgbench import make_tpcb, script_rate, tpcb_rate
from bench.population import OVERRIDES, ROLLOUT_EVERY, SEGMENTS, Calendar, batches, segments
from bench.processor import processor_seconds
from bench.programs import Missing, wrk
from bench.shapes import SHAPES
from bench.table import table
from segmentd.storage.database import Database
from segmentd.storage.memberships import segments_of
from tests.support.processes import eventually

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CALENDAR = Calendar.before(NOW)


def silent(line: str) -> None:
    del line


def figure(**changes: object) -> Figure:
    given = {"name": "hot-read", "work": "reads", "unit": "/s", "values": [100.0, 300.0, 200.0]}
    return Figure(**{**given, **changes})  # type: ignore[arg-type]


def test_a_seed_gives_the_same_population_again_and_another_seed_another() -> None:
    [(users, overrides)] = batches(1000, CALENDAR, 7)
    [(again, same)] = batches(1000, CALENDAR, 7)
    [(_, other)] = batches(1000, CALENDAR, 8)

    assert all(map(np.array_equal, (*users, *overrides), (*again, *same)))
    assert not np.array_equal(overrides.segment_ids, other.segment_ids)
    assert segments(7) == segments(7) != segments(8)


def test_each_user_has_ten_overrides_of_as_many_segments() -> None:
    [(_, overrides)] = batches(1000, CALENDAR, 7)

    pairs = set(zip(overrides.user_ids.tolist(), overrides.segment_ids.tolist(), strict=True))
    assert len(pairs) == 1000 * OVERRIDES
    assert Counter(overrides.user_ids.tolist()) == dict.fromkeys(range(1, 1001), OVERRIDES)


def test_the_sizes_of_segments_fall_as_zipf_says() -> None:
    [(_, overrides)] = batches(50_000, CALENDAR, 7)

    sizes = np.bincount(overrides.segment_ids, minlength=SEGMENTS + 1)[1:]
    weights = 1 / (np.arange(SEGMENTS) + 9)
    expected = weights / weights.sum() * 50_000 * OVERRIDES
    # The strata are cut between two segments, so that the few largest are off by up to a third.
    assert np.all(abs(sizes / expected - 1) < 0.35)
    assert sizes[0] > 0.2 * 50_000 > 20 * sizes[-1]


def test_only_segments_with_a_percentage_have_exclusions_and_no_exclusion_has_a_term() -> None:
    rolled_out = {segment.id for segment in segments(7) if segment.percent is not None}
    [(_, overrides)] = batches(5000, CALENDAR, 7)

    assert len(rolled_out) == SEGMENTS // ROLLOUT_EVERY
    assert set(overrides.segment_ids[~overrides.included].tolist()) <= rolled_out
    assert overrides.included[overrides.until > 0].all()
    assert (overrides.until > 0).any()


async def test_what_is_loaded_is_what_the_service_reads(database_url: str, database: Database) -> None:
    load_users(database_url, 300, CALENDAR, 7, silent)

    [(_, overrides)] = batches(300, CALENDAR, 7)
    mine = overrides.user_ids == 42
    excluded = set(overrides.segment_ids[mine & ~overrides.included].tolist())
    slugs = {segment.id: segment.slug for segment in segments(7)}
    [found] = await segments_of(database, [42])  # type: ignore[list-item]
    included = {slugs[number] for number in overrides.segment_ids[mine & overrides.included].tolist()}
    assert included <= {*found.segments}
    assert not {slugs[number] for number in excluded} & {*found.segments}


def test_loading_leaves_every_index_and_constraint_as_it_was(database_url: str) -> None:
    def schema() -> list[tuple[object, ...]]:
        with closing(psycopg.connect(database_url)) as connection:
            return connection.execute(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
                " UNION ALL SELECT conname || pg_get_constraintdef(oid) || convalidated FROM pg_constraint"
                " ORDER BY 1"
            ).fetchall()

    before = schema()
    load_users(database_url, 10, CALENDAR, 7, silent)

    assert schema() == before


def test_events_are_in_the_last_whole_month_as_many_as_asked(database_url: str) -> None:
    load_events(database_url, 1000, 50, CALENDAR, 7, silent)

    with closing(psycopg.connect(database_url)) as connection:
        [counted] = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE operation = 'add'), count(*) FILTER (WHERE effective),"
            " count(*) FILTER (WHERE at >= '2026-10-01 00:00+00' AND at < '2026-11-01 00:00+00')"
            " FROM membership_events"
        )
    assert counted == (1000, 500, 1000, 1000)


def test_more_segments_are_empty_and_the_service_goes_on_from_there(database_url: str) -> None:
    load_users(database_url, 10, CALENDAR, 7, silent)

    load_more_segments(database_url, 2 * SEGMENTS, CALENDAR)

    with closing(psycopg.connect(database_url)) as connection:
        [(count, members)] = connection.execute(
            "SELECT count(DISTINCT s.id), count(m) FROM segments s"
            " LEFT JOIN memberships m ON m.segment_id = s.id AND s.slug LIKE 'unused-%'"
        )
        [(slug,)] = connection.execute("SELECT slug FROM create_segment('A', '', NULL, 1, 'bench')")
    assert (count, members, slug) == (2 * SEGMENTS, 0, "A")


def test_pgbench_runs_its_own_transactions_and_our_changes(
    database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.pgbench.SCALE", 1)
    load_users(database_url, 10, CALENDAR, 7, silent)

    make_tpcb(empty_database_url)

    assert tpcb_rate(empty_database_url, 1, seed=1) > 0
    assert script_rate(database_url, CHANGE, 1, seed=1, users=10) > 0
    assert script_rate(database_url, CHANGES, 1, seed=1, users=20, together=4) > 0
    with closing(psycopg.connect(database_url)) as connection:
        [(users, operations)] = connection.execute(
            "SELECT count(DISTINCT user_id), string_agg(DISTINCT operation::text, ' ') FROM membership_events"
            " WHERE actor = 'bench' AND effective"
        )
    assert (users, operations) == (20, "add remove")


def test_processor_time_is_that_of_a_process_and_of_all_its_children() -> None:
    busy = ["/bin/sh", "-c", "while :; do :; done & wait"]
    with subprocess.Popen(busy, start_new_session=True) as waiting:
        try:
            eventually(lambda: processor_seconds([waiting.pid]) > 0.2)
            before = processor_seconds([waiting.pid])
            eventually(lambda: processor_seconds([waiting.pid]) > before)
        finally:
            os.killpg(waiting.pid, signal.SIGKILL)
    assert processor_seconds([]) == 0


async def test_the_client_of_grpc_counts_answers_and_takes_no_error_for_one() -> None:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if request.endswith(b"\2"):
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return request * 1000

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert await put_calls(port, Calls("/a.Service/Call", users=1), 0.2, 1) > 0
        with pytest.raises(ValueError, match="answered with an error"):
            await put_calls(port, Calls("/a.Service/Call", users=2), 0.2, 1)
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    ("name", "total", "percentages", "overrides"),
    [
        ("explicit", 500, [], 10),
        ("short", 200, [5] * 100, 2),
        ("segments", 10_000, [10] * 100, 10),
        ("percentages", 1000, [1] * 1000, 10),
        ("usual", 1000, [10] * 100, 10),
    ],
)
def test_a_shape_has_the_segments_percentages_and_overrides_that_its_row_names(
    name: str, total: int, percentages: list[int], overrides: int
) -> None:
    shape = SHAPES[name].shape
    made = segments(7, shape)
    [(users, theirs)] = batches(50, CALENDAR, 7, shape)

    assert len({segment.slug for segment in made}) == total
    assert [segment.percent for segment in made if segment.percent is not None] == percentages
    pairs = {*zip(theirs.user_ids.tolist(), theirs.segment_ids.tolist(), strict=True)}
    assert len(pairs) == overrides * len(users.ids) == overrides * 50
    assert {segment_id for _, segment_id in pairs} <= {segment.id for segment in made}


def test_each_row_is_explained() -> None:
    page = Path("docs/performance.md").read_text()
    assert not [name for name in ROWS if f"| {name}" not in page]


def test_a_ratio_is_taken_in_each_round_and_then_its_median() -> None:
    rates = figure(reference_values=[1000.0, 500.0, 400.0])
    times = figure(rate=False, reference_values=[50.0, 150.0, 150.0])

    assert rates.ratios == [0.1, 0.6, 0.5]
    assert rates.judged == Spread(0.5, 0.1, 0.6)
    assert times.ratios == [0.5, 0.5, 0.75]


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (None, "–"),
        (Target(250, 400), "missed"),
        (Target(200, 400), "reached"),
        (Target(100, 200), "aim"),
        (Target(150, 100, at_most=True), "missed"),
        (Target(200, 100, at_most=True), "reached"),
        (Target(400, 200, at_most=True), "aim"),
    ],
)
def test_the_median_is_judged_in_the_direction_of_its_target(target: Target | None, verdict: str) -> None:
    assert figure(target=target).verdict == verdict


def test_p99_of_a_hundred_values_is_the_largest_but_none_beyond() -> None:
    assert quantile([*map(float, range(100))], 0.99) == 99
    assert quantile([*map(float, range(1000))], 0.5) == 500
    assert quantile([3.0], 0.99) == 3


def test_the_table_has_a_line_for_each_row_also_for_what_could_not_be_measured() -> None:
    rows: list[Figure | Skipped] = [
        figure(reference="nginx", reference_values=[400.0, 1200.0, 800.0], target=Target(0.2, 0.5)),
        Skipped("write", "pgbench is not installed"),
    ]
    out = StringIO()
    Console(file=out, width=200).print(table(rows, "a run"))

    said = out.getvalue()
    assert "200 [100–300] /s" in said
    assert "nginx: 800" in said
    assert "reached" in said
    assert "pgbench is not installed" in said


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    from bench.chart import draw  # noqa: PLC0415 - its library takes long to load, and only this test draws

    draw([figure(target=Target(100, 200))], "a run", tmp_path / "chart.png")

    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_missing_program_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    with pytest.raises(Missing, match=r"wrk is not installed.*apt install wrk"):
        wrk()


def test_a_product_that_is_not_installed_is_named_with_what_brings_it(tmp_path: Path) -> None:
    with (
        pytest.raises(Missing, match=r"npm install --prefix \S+ @growthbook/proxy-eval"),
        growthbook(tmp_path),
    ):
        pass
    with pytest.raises(Missing, match=r"npm install --prefix \S+ unleash-server"), unleash(tmp_path, {}):
        pass


def test_a_wrong_option_says_which_rows_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "everything"])

    said = capsys.readouterr().err
    assert all(name in said for name in ROWS)
