"""Every call of the Python client against a real service."""

import gzip
import hashlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pytest

from segmentd_client import AsyncClient, Client, Term, UserChange, errors
from segmentd_client.jobs import MembershipChange, SegmentChange


def test_a_segment_is_created_changed_and_deleted(client: Client) -> None:
    created = client.segments.create("SEG.1", description="ü", percent=Decimal("12.5"), salt=-(2**63))
    assert (created.slug, created.percent, created.salt) == ("SEG.1", 12.5, str(-(2**63)))
    assert created.created_at.utcoffset() == timedelta(0)
    assert client.segments.get("SEG.1") == created

    assert client.segments.update("SEG.1", percent=None).percent is None
    assert client.segments.update("SEG.1", description="new").description == "new"
    assert client.segments.update("SEG.1", new_slug="SEG.2").slug == "SEG.2"

    client.segments.delete("SEG.2")
    with pytest.raises(errors.SegmentNotFound) as raised:
        client.segments.delete("SEG.2")
    assert raised.value.segments == ["SEG.2"]
    assert raised.value.request_id


def test_lists_are_walked_page_by_page(client: Client) -> None:
    slugs = [f"WALK-{number}" for number in range(5)]
    for slug in slugs:
        client.segments.create(slug)
    changes = [UserChange(user_id, add=["WALK-0"]) for user_id in range(7_000_000, 7_000_005)]
    client.users.change_many(changes, reason="walk")
    ids = [change.user_id for change in changes]

    assert [each.slug for each in client.segments.list(limit=2) if each.slug in slugs] == slugs
    assert [each.id for each in client.users.list(limit=1000) if each.id in ids] == ids
    assert [*client.segments.members("WALK-0", limit=2)] == ids
    assert [member.user_id for member in client.segments.export("WALK-0")] == ids
    file = b"".join(client.segments.export_file("WALK-0", header=True)).decode().splitlines()
    assert [line.partition(";")[0] for line in file] == ["user_id", *map(str, ids)]
    assert [entry.subject for entry in islice(client.audit(limit=3), 5)]


def test_a_user_s_segments_are_changed_read_and_explained(client: Client) -> None:
    client.segments.create("MINE")
    client.segments.create("HIS", percent=100)
    until = datetime.now(UTC) + timedelta(days=2)

    changed = client.users.change(7100, add=[Term("MINE", until=until)], remove=["HIS"], reason="ticket 1")

    assert (changed.added, changed.removed) == (["MINE"], ["HIS"])
    assert "MINE" in changed.segments
    assert "HIS" not in changed.segments
    found = client.users.segments(7100)
    assert "MINE" in found.segments
    assert found.age_s <= 60
    [mine] = [each for each in client.users.memberships(7100) if each.slug == "MINE"]
    assert (mine.source, mine.until) == ("explicit", until)
    explained = client.users.explain(7100, "HIS")
    assert (explained.member, explained.because, explained.percent) == (False, "excluded", 100)
    history = [*client.users.history(7100, limit=1)]
    assert [(event.segment, event.operation) for event in history if event.cause == "request"] == [
        ("HIS", "remove"),
        ("MINE", "add"),
    ]
    before = mine.since - timedelta(microseconds=1)
    assert "MINE" not in client.users.segments(7100, at=before).segments
    [one, other] = client.users.lookup([7100, 7101]).users
    assert (one.user_id, "MINE" in one.segments) == (7100, True)
    assert (other.user_id, "HIS" in other.segments) == (7101, True)
    client.segments.delete("HIS")


def test_users_are_registered_and_erased(client: Client) -> None:
    registered = client.users.register(7200, name="Ünsal")
    assert client.users.get(7200) == registered
    with pytest.raises(errors.UserExists):
        client.users.register(7200)
    client.users.delete(7200, erase=True)
    with pytest.raises(errors.UserNotFound):
        client.users.get(7200)
    assert client.users.register().id > 0


def test_figures_of_a_segment_are_counted_and_previewed(client: Client) -> None:
    client.segments.create("COUNTED")
    client.users.change(7300, add=["COUNTED"])
    assert client.segments.counts("COUNTED").explicit == 1
    preview = client.segments.preview("COUNTED", 50)
    assert (preview.percent_before, preview.percent_after, preview.pinned) == (None, 50, 1)


def test_flags_are_those_of_openfeature(client: Client) -> None:
    client.segments.create("FLAG")
    client.users.change(7400, add=["FLAG"])
    flag = client.flag("FLAG", 7400)
    assert (flag.value, flag.variant, flag.reason) == (True, "on", "TARGETING_MATCH")
    every = client.flags(7401)
    assert every
    assert not next(each.value for each in every.flags if each.key == "FLAG")
    with pytest.raises(errors.Problem) as raised:
        client.flag("NOWHERE", 7400)
    assert raised.value.status == 404


def test_the_service_says_that_it_is_ready(client: Client) -> None:
    client.check_ready()


# Imports and reports

ROWS = "user_id\n" + "".join(f"{7_500_000 + number}\n" for number in range(3_000))


def from_file(folder: Path) -> Path:
    (folder / "rows.csv").write_text(ROWS)
    return folder / "rows.csv"


def in_pieces(_: Path) -> Iterator[bytes]:
    yield from (line.encode() for line in ROWS.splitlines(keepends=True))


@pytest.mark.parametrize("rows", [lambda _: ROWS, from_file, in_pieces], ids=["text", "file", "pieces"])
def test_a_list_is_imported_from_anywhere(
    client: Client, tmp_path: Path, rows: Callable[[Path], str | Path | Iterator[bytes]]
) -> None:
    slug = f"IMPORT-{getattr(rows, '__name__', 'text').strip('<>')}"
    client.segments.create(slug)
    sent: list[int] = []

    begun = client.imports.create(rows(tmp_path), segment=slug, sent=sent.append)
    done = client.imports.wait(begun.id, every_s=0.05)

    assert (done.status, done.users, done.added) == ("done", 3_000, 3_000)
    assert done.sha256 == hashlib.sha256(ROWS.encode()).hexdigest()
    assert sum(sent) == len(ROWS)
    assert begun.id in [each.id for each in client.imports.list(limit=1)]
    with pytest.raises(errors.ImportFinished):
        client.imports.cancel(begun.id)


def test_an_import_is_made_once_under_one_key(client: Client) -> None:
    client.segments.create("ONCE")
    packed = gzip.compress(b"7600\n7601\n")
    first, second = (
        client.imports.create(packed, segment="ONCE", idempotency_key="a key", is_gzipped=True, wait_s=30)
        for _ in range(2)
    )
    assert first.id == second.id
    with pytest.raises(errors.IdempotencyKeyReused):
        client.imports.create(b"7602\n", segment="ONCE", idempotency_key="a key")


def test_a_bad_row_is_shown(client: Client) -> None:
    client.segments.create("BAD")
    begun = client.imports.create("7700\nnobody;x\n", segment="BAD")
    with pytest.raises(errors.JobFailed, match="failed"):
        client.imports.wait(begun.id, every_s=0.05)
    assert [bad.line for bad in client.imports.errors(begun.id)] == [2]


def test_a_report_is_ordered_and_downloaded(client: Client) -> None:
    client.segments.create("REPORTED")
    client.users.change(7800, add=["REPORTED"])
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=1), now + timedelta(days=1)
    ordered = client.reports.order(begin=begin, end=end, segment="REPORTED", wait_s=1)
    done = client.reports.wait(ordered.id, every_s=0.05)
    content = b"".join(client.reports.download(done))
    assert hashlib.sha256(content).hexdigest() == done.sha256
    assert content.decode().startswith("7800;REPORTED;add;")


# The feed


def test_the_feed_goes_on_from_a_position_and_misses_nothing(client: Client) -> None:
    position = client.feed.page("now").next
    client.segments.create("FED", percent=1)
    client.users.change(7900, add=["FED"])
    client.users.change(7900, remove=["FED"])

    [created, added] = islice(client.feed.follow(position, segment="FED"), 2)
    [removed] = islice(client.feed.follow(added.position, segment="FED", user_id=7900), 1)

    assert isinstance(created, SegmentChange)
    assert (created.operation, created.percent_after) == ("created", 1)
    assert isinstance(added, MembershipChange)
    assert (added.user_id, added.operation, removed.operation) == (7900, "add", "remove")


# The asynchronous client


@pytest.fixture
async def asynchronous(service_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service_url) as client:
        yield client


async def test_the_asynchronous_client_does_the_same(asynchronous: AsyncClient, tmp_path: Path) -> None:
    client = asynchronous
    await client.segments.create("ASYNC")
    position = (await client.feed.page("now")).next
    begun = await client.imports.create(from_file(tmp_path), segment="ASYNC")
    assert (await client.imports.wait(begun.id, every_s=0.05)).added == 3_000
    assert len([member async for member in client.segments.export("ASYNC")]) == 3_000
    assert [user_id async for user_id in client.segments.members("ASYNC", limit=1000)][-1] == 7_502_999
    async for change in client.feed.follow(position, segment="ASYNC"):
        assert change.segment == "ASYNC"
        break
    with pytest.raises(errors.SegmentExists):
        await client.segments.create("async")


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    with Client() as client:
        other = AsyncClient()
        for name in ("segments", "users", "imports", "reports", "feed"):
            one, two = getattr(client, name), getattr(other, name)
            methods = [each for each in dir(one) if not each.startswith("_")]
            assert methods == [each for each in dir(two) if not each.startswith("_")]
            for method in methods:
                parameters = [
                    inspect.signature(getattr(each, method)).parameters.keys() for each in (one, two)
                ]
                assert parameters[0] == parameters[1]
