"""Changes in groups, by values: the transactions are the test's own, and end when the test says so."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.changes.grouping import GroupedChanges, GroupLimits, Outcome
from segmentd.domain.access import Actor
from segmentd.domain.errors import Overloaded, SegmentNotFound, Unavailable
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Addition, Change, Changed
from segmentd.storage.changes import Locked, Wanted

LIMITS: Final = GroupLimits(
    lines=2, long=0, worth=4, pause=0, users=4, slugs=6, alone=2, waiting=12, of_a_user=5, seconds=60
)
# A pause that only changes can end.
PAUSING: Final = LIMITS._replace(long=60, pause=1e9)
AWAY: Final = Unavailable("It is away.", hot_reads=True)


def wanted(user_id: int, *slugs: str) -> Wanted:
    return Wanted(UserId(user_id), Change([Addition(Slug(slug)) for slug in slugs or "A"], []), Actor("me"))


def changed(change: Wanted) -> Changed:
    """The answer that only this change can get."""
    slugs = change.change.slugs()
    return Changed(change.user_id, slugs, slugs, [], [], [])


class Transaction:
    """A transaction under way."""

    def __init__(self, changes: Sequence[Wanted], *, together: bool) -> None:
        self.changes = changes
        self.together = together
        self.ending: asyncio.Future[Sequence[Outcome | Locked]] = asyncio.get_running_loop().create_future()

    @property
    def users(self) -> list[int]:
        return [change.user_id for change in self.changes]

    def end(self, *outcomes: Outcome | Locked) -> None:
        """Ends; by default each change gets its own answer."""
        self.ending.set_result(outcomes or [*map(changed, self.changes)])


class Office:
    """Grouped changes, and the transactions that they make."""

    def __init__(self, limits: GroupLimits = LIMITS) -> None:
        self.late = 0
        self.grouped = GroupedChanges(self, limits, self._waited_too_long)
        self.under_way: list[Transaction] = []
        self.made: list[Transaction] = []
        self.begun = asyncio.Event()

    async def each(self, wanted: Sequence[Wanted]) -> Sequence[Outcome | Locked]:
        return await self._transaction(Transaction(wanted, together=False))

    async def together(self, wanted: Sequence[Wanted]) -> Sequence[Outcome]:
        outcomes = await self._transaction(Transaction(wanted, together=True))
        return [outcome for outcome in outcomes if not isinstance(outcome, Locked)]

    async def _transaction(self, transaction: Transaction) -> Sequence[Outcome | Locked]:
        self.under_way.append(transaction)
        self.begun.set()
        self.made.append(transaction)
        try:
            return await transaction.ending
        finally:
            self.under_way.remove(transaction)

    def _waited_too_long(self) -> None:
        self.late += 1

    async def send(self, *changes: Wanted) -> list[asyncio.Task[Changed]]:
        """Requests, each in a task of its own."""
        tasks = [asyncio.create_task(self.grouped.change(change)) for change in changes]
        await rest()
        return tasks

    async def end(self, place: int, *outcomes: Outcome | Locked) -> None:
        """Ends a transaction under way."""
        self.under_way[place].end(*outcomes)
        await rest()


async def rest() -> None:
    """Lets everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def users_of(transactions: Sequence[Transaction]) -> list[list[int]]:
    return [transaction.users for transaction in transactions]


async def test_a_change_that_comes_alone_begins_at_once() -> None:
    office = Office()
    [first] = await office.send(wanted(1))
    assert users_of(office.under_way) == [[1]]

    [second] = await office.send(wanted(2))
    assert users_of(office.under_way) == [[1], [2]]

    await office.end(1)
    await office.end(0)
    assert [await first, await second] == [changed(wanted(1)), changed(wanted(2))]


async def test_changes_of_one_moment_and_those_that_come_meanwhile_go_together_within_limits() -> None:
    office = Office()
    first = await office.send(wanted(1), wanted(2))
    second = await office.send(wanted(3))
    meanwhile = await office.send(*map(wanted, range(4, 10)))
    assert users_of(office.under_way) == [[1, 2], [3]]

    await office.end(0)
    assert users_of(office.under_way) == [[3], [4, 5, 6, 7]]
    await office.end(0)
    assert users_of(office.under_way) == [[4, 5, 6, 7], [8, 9]]
    await office.end(0)
    await office.end(0)

    answers = await asyncio.gather(*first, *second, *meanwhile)
    assert answers == [changed(wanted(user)) for user in range(1, 10)]
    assert users_of(office.made) == [[1, 2], [3], [4, 5, 6, 7], [8, 9]]


async def test_another_transaction_begins_when_a_whole_group_waits_and_not_before() -> None:
    office = Office(LIMITS._replace(long=60))
    tasks = await office.send(wanted(1))
    tasks += await office.send(wanted(2), wanted(3), wanted(4))
    assert users_of(office.under_way) == [[1]]

    tasks += await office.send(wanted(5))
    assert users_of(office.under_way) == [[1], [2, 3, 4, 5]]
    await office.end(0)
    await office.end(0)
    await asyncio.gather(*tasks)


async def test_after_a_group_the_next_one_waits_for_as_many_as_were_answered_and_waited() -> None:
    office = Office(PAUSING)
    tasks = await office.send(wanted(1), wanted(2))
    tasks += await office.send(wanted(3))
    await office.end(0)
    tasks += await office.send(wanted(4))
    assert users_of(office.under_way) == []

    tasks += await office.send(wanted(5))
    assert users_of(office.under_way) == [[3, 4, 5]]
    tasks += await office.send(wanted(6), wanted(7))
    await office.end(0)
    tasks += await office.send(wanted(8))
    assert users_of(office.under_way) == []
    # Five are about, but a group of four is worth its transaction.
    tasks += await office.send(wanted(9))
    assert users_of(office.under_way) == [[6, 7, 8, 9]]
    await office.end(0)
    assert [await task for task in tasks] == [changed(wanted(user)) for user in range(1, 10)]
    await office.grouped.end()


async def test_a_client_alone_never_waits_for_others() -> None:
    office = Office(PAUSING)
    for user in range(1, 4):
        [task] = await office.send(wanted(user))
        assert users_of(office.under_way) == [[user]]
        await office.end(0)
        assert await task == changed(wanted(user))


async def test_a_group_waits_for_others_only_for_a_part_of_the_time_of_the_one_before() -> None:
    office = Office(PAUSING._replace(pause=1.0))
    tasks = await office.send(wanted(1), wanted(2))
    tasks += await office.send(wanted(3))
    office.begun.clear()
    await office.end(0)
    await office.begun.wait()
    assert users_of(office.under_way) == [[3]]
    await office.end(0)
    assert [await task for task in tasks] == [changed(wanted(user)) for user in range(1, 4)]


async def test_a_change_does_not_wait_for_long_for_a_transaction_that_does_not_end() -> None:
    office = Office(LIMITS._replace(long=0.01))
    tasks = await office.send(wanted(1))
    tasks += await office.send(wanted(2))
    assert users_of(office.under_way) == [[1]]

    while users_of(office.under_way) != [[1], [2]]:  # noqa: ASYNC110 - the office sets no event
        await asyncio.sleep(0.001)
    await office.end(0)
    await office.end(0)
    await asyncio.gather(*tasks)


async def test_a_group_has_so_many_slugs_at_most_and_a_larger_change_goes_alone() -> None:
    office = Office(LIMITS._replace(lines=1))
    tasks = await office.send(wanted(1))
    tasks += await office.send(
        wanted(2, *"ABC"), wanted(3, *"ABC"), wanted(4), wanted(5, *"ABCDEFGH"), wanted(6)
    )

    for _ in range(5):
        await office.end(0) if office.under_way else None

    assert users_of(office.made) == [[1], [2, 3], [4], [5], [6]]
    await asyncio.gather(*tasks)


async def test_the_changes_of_a_user_are_applied_one_after_the_other_as_they_came() -> None:
    office = Office()
    tasks = await office.send(wanted(1, "A"), wanted(1, "B"), wanted(2), wanted(1, "C"))
    assert users_of(office.under_way) == [[1, 2]]

    await office.end(0)
    assert users_of(office.under_way) == [[1]]
    tasks += await office.send(wanted(1, "D"), wanted(3))
    assert users_of(office.under_way) == [[1], [3]]
    while office.under_way:
        await office.end(0)

    applied = [
        change.change.slugs() for made in office.made for change in made.changes if change.user_id == 1
    ]
    assert applied == [["A"], ["B"], ["C"], ["D"]]
    assert len(await asyncio.gather(*tasks)) == 6


async def test_each_change_gets_its_own_answer_or_error() -> None:
    office = Office()
    good, bad, broken = await office.send(wanted(1), wanted(2), wanted(3))
    bug = ZeroDivisionError()

    await office.end(0, changed(wanted(1)), SegmentNotFound(["A"]), bug)

    assert await good == changed(wanted(1))
    with pytest.raises(SegmentNotFound):
        await bad
    with pytest.raises(ZeroDivisionError):
        await broken


@pytest.mark.parametrize("error", [AWAY, Overloaded("Busy."), ZeroDivisionError("a bug")], ids=repr)
async def test_what_goes_wrong_for_a_whole_group_is_the_error_of_each_and_of_no_later_one(
    error: Exception,
) -> None:
    office = Office()
    tasks = await office.send(wanted(1), wanted(2))
    later = await office.send(wanted(1), wanted(3))

    office.under_way[0].ending.set_exception(error)
    await rest()

    raised = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(each), str(each)) for each in raised] == [(type(error), str(error))] * 2
    if isinstance(error, Unavailable):
        assert raised[0] is not raised[1]
        assert all(isinstance(each, Unavailable) and each.extra == error.extra for each in raised)
    while office.under_way:
        await office.end(0)
    assert await asyncio.gather(*later) == [changed(wanted(1)), changed(wanted(3))]


async def test_a_locked_user_is_waited_for_alone_and_holds_up_only_their_own_changes() -> None:
    office = Office(LIMITS._replace(lines=1))
    locked, other = await office.send(wanted(1, "A"), wanted(2))
    behind = await office.send(wanted(1, "B"))
    await office.end(0, Locked(UserId(1)), changed(wanted(2)))

    assert await other == changed(wanted(2))
    assert [(made.users, made.together) for made in office.under_way] == [([1], True)]
    meanwhile = await office.send(wanted(3))
    assert [(made.users, made.together) for made in office.under_way] == [([1], True), ([3], False)]
    await office.end(1)
    assert await meanwhile[0] == changed(wanted(3))
    assert not locked.done()

    await office.end(0)
    assert await locked == changed(wanted(1, "A"))
    await office.end(0)
    assert await behind[0] == changed(wanted(1, "B"))


async def test_only_so_many_locked_users_are_waited_for_at_once() -> None:
    office = Office()
    tasks = await office.send(*map(wanted, range(1, 5)))
    await office.end(0, *[Locked(UserId(1))] * 4)
    assert users_of(office.under_way) == [[1], [2]]

    await office.end(1)
    assert users_of(office.under_way) == [[1], [3]]
    tasks[3].cancel()
    await rest()
    await office.end(1)
    assert users_of(office.under_way) == [[1]]

    await office.end(0)
    assert await asyncio.gather(*tasks[:3]) == [changed(wanted(user)) for user in (1, 2, 3)]


async def test_a_request_that_ends_early_changes_nothing_for_the_others() -> None:
    office = Office(LIMITS._replace(lines=1))
    under_way, other = await office.send(wanted(1, "A"), wanted(2))
    waiting, behind, last = await office.send(wanted(3), wanted(1, "B"), wanted(1, "C"))

    for task in (under_way, waiting, behind):
        task.cancel()
    await rest()
    await office.end(0)
    await office.end(0)

    assert await other == changed(wanted(2))
    assert await last == changed(wanted(1, "C"))
    assert users_of(office.made) == [[1, 2], [1]]


async def test_a_wait_for_a_lock_ends_with_its_request() -> None:
    office = Office()
    [locked] = await office.send(wanted(1, "A"))
    [behind] = await office.send(wanted(1, "B"))
    await office.end(0, Locked(UserId(1)))

    locked.cancel()
    await rest()

    assert [made.changes[0].change.slugs() for made in office.under_way] == [["B"]]
    await office.end(0)
    assert await behind == changed(wanted(1, "B"))


async def test_a_change_waits_for_its_turn_only_so_long() -> None:
    office = Office(LIMITS._replace(seconds=0.05))
    first = await office.send(wanted(1))
    second = await office.send(wanted(2))
    waiting = await office.send(wanted(3), wanted(1))

    for late in waiting:
        with pytest.raises(Unavailable, match="waited too long"):
            await late
    assert office.late >= 1
    fresh = await office.send(wanted(3), wanted(4))
    while office.under_way:
        await office.end(0)

    assert await asyncio.gather(*first, *second, *fresh) == [changed(wanted(user)) for user in (1, 2, 3, 4)]
    assert users_of(office.made) == [[1], [2], [3, 4]]


async def test_only_so_many_changes_wait_and_only_so_many_of_one_user() -> None:
    office = Office()
    tasks = await office.send(wanted(1)) + await office.send(wanted(2))
    tasks += await office.send(*[wanted(1)] * 5)
    with pytest.raises(Overloaded):
        await office.grouped.change(wanted(1))
    tasks += await office.send(*map(wanted, range(3, 10)))

    with pytest.raises(Overloaded):
        await office.grouped.change(wanted(10))

    while office.under_way:
        await office.end(0)
    assert len(await asyncio.gather(*tasks)) == 14
    tasks = await office.send(wanted(10))
    await office.end(0)
    await tasks[0]


async def test_the_end_settles_everything() -> None:
    office = Office()
    tasks = await office.send(*map(wanted, range(1, 9)), wanted(1))

    await office.grouped.end()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert office.under_way == []


# Whatever happens in whatever order

arrivals = st.tuples(st.just("send"), st.integers(1, 5), st.integers(1, 4))
acts = st.lists(
    st.one_of(
        arrivals,
        arrivals,
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 3), st.integers(0, 255)),
        st.tuples(st.just("break"), st.integers(0, 3), st.just(0)),
    ),
    max_size=40,
)


class Crowd:
    """Requests that come, go and are answered in any order, and what each is to get."""

    def __init__(self) -> None:
        self.office = Office()
        self.tasks: list[asyncio.Task[Changed]] = []
        self.sent: list[Wanted] = []

    async def send(self, user_id: int, size: int) -> None:
        change = wanted(user_id, *(f"{len(self.sent)}.{number}" for number in range(size)))
        self.sent.append(change)
        self.tasks += await self.office.send(change)

    async def cancel(self, place: int, _: int) -> None:
        if place < len(self.tasks):
            self.tasks[-1 - place].cancel()
            await rest()

    async def end(self, place: int, chance: int) -> None:
        """A transaction ends; bits of `chance` choose the users that are locked, and the errors."""
        if place < len(self.office.under_way):
            transaction = self.office.under_way[place]
            await self.office.end(
                place,
                *(
                    Locked(UserId(1))
                    if chance >> 2 * bit & 3 == 1 and not transaction.together
                    else SegmentNotFound(change.change.slugs())
                    if chance >> 2 * bit & 3 == 2
                    else changed(change)
                    for bit, change in enumerate(transaction.changes)
                ),
            )

    async def break_off(self, place: int, _: int) -> None:
        if place < len(self.office.under_way):
            self.office.under_way[place].ending.set_exception(AWAY)
            await rest()

    def check(self) -> None:
        """No user is in two transactions at once, and limits are kept."""
        users = [user for made in self.office.under_way for user in made.users]
        assert len({*users}) == len(users)
        groups = [made for made in self.office.under_way if not made.together]
        assert len(groups) <= LIMITS.lines
        assert len(self.office.under_way) - len(groups) <= LIMITS.alone
        for made in groups:
            assert len(made.changes) <= LIMITS.users
            assert len(made.changes) == 1 or sum(len(c.change.add) for c in made.changes) <= LIMITS.slugs

    async def finish(self) -> None:
        while self.office.under_way:
            await self.end(0, 0)
        for change, task in zip(self.sent, self.tasks, strict=True):
            assert task.done()
            if task.cancelled():
                continue
            match task.exception():
                case None:
                    assert task.result() == changed(change)
                case SegmentNotFound() as error:
                    assert error.extra["segments"] == change.change.slugs()
                case error:
                    assert isinstance(error, Unavailable)
        tried: dict[int, list[int]] = defaultdict(list)
        for made in self.office.made:
            for change in made.changes:
                tried[change.user_id].append(self.sent.index(change))
        for order in tried.values():
            assert order == sorted(order)


@settings(max_examples=120, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts)
def test_whatever_happens_every_change_gets_its_own_outcome_in_the_order_of_its_user(
    acts: Sequence[tuple[str, int, int]],
) -> None:
    async def story() -> None:
        crowd = Crowd()
        for name, first, second in acts:
            await {"send": crowd.send, "cancel": crowd.cancel, "end": crowd.end, "break": crowd.break_off}[
                name
            ](first, second)
            crowd.check()
        await crowd.finish()

    asyncio.run(story())
