"""Changes in groups: those that come while a transaction is under way go together in the next one.

One that comes alone begins at once. Clients that were just answered often send their next change: a small
group waits a moment for these, because a transaction costs as much as the changes of several users. Each
change has its own answer and its own error. The changes of one user are applied in the order in which they
came, one after the other (docs/decisions/0057).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import Context
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from segmentd.background import end
from segmentd.domain.errors import Overloaded, Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.domain.memberships import Changed
from segmentd.storage.changes import Locked, Wanted

Outcome = Changed | Exception


class Apply(Protocol):
    """Applies changes of different users in one transaction."""

    async def each(self, wanted: Sequence[Wanted]) -> Sequence[Outcome | Locked]:
        """Each for itself, without waiting for a locked user; the outcomes in the order of the changes.

        Raises what went wrong for all of them.
        """
        ...

    async def together(self, wanted: Sequence[Wanted]) -> Sequence[Outcome]:
        """All or nothing; waits for locked users. Raises what went wrong."""
        ...


_STOPPING: Final = "The service is about to stop; try again shortly."


class GroupLimits(NamedTuple):
    """How much goes together, and how much waits."""

    lines: int = 2
    """Transactions with groups, at once: a second one if a whole group waits, or a change for long."""
    long: float = 0.05
    """Seconds after which a change waits for no transaction under way, if there may be another one."""
    worth: int = 16
    """Users of a group that waits for no more to come."""
    pause: float = 0.25
    """The longest wait for them after a group, in times of how long its transaction took."""
    users: int = 64
    """Of one group."""
    slugs: int = 512
    """Of one group; a larger change goes alone."""
    alone: int = 4
    """Changes of locked users that wait for their locks, at once, each in a transaction of its own."""
    waiting: int = 1024
    """Changes that wait for their turn."""
    of_a_user: int = 128
    """Changes of one user that wait for an earlier one."""
    seconds: float = 3.0
    """The longest wait for a turn."""


class _Waiting:
    """A change and its future outcome; `since` by the loop's clock."""

    __slots__ = ("outcome", "since", "size", "wanted")

    def __init__(self, wanted: Wanted, outcome: asyncio.Future[Outcome], since: float) -> None:
        self.wanted = wanted
        self.size = len(wanted.change.add) + len(wanted.change.remove)
        self.outcome = outcome
        self.since = since

    @property
    def is_over(self) -> bool:
        """Whether its request was canceled, or was told that it waited too long."""
        return self.outcome.done()

    def settle(self, outcome: Outcome) -> None:
        """Gives the outcome to the request, if it still waits for one."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class GroupedChanges:
    """Takes changes one by one and applies them in groups."""

    def __init__(
        self,
        apply: Apply,
        limits: GroupLimits | None = None,
        waited_too_long: Callable[[], None] = lambda: None,
    ) -> None:
        self._apply = apply
        self._limits = limits or GroupLimits()
        self._waited_too_long = waited_too_long
        # Changes whose turn is next; and for each of their users, and of those under way, the later changes.
        self._ready: deque[_Waiting] = deque()
        self._later: dict[UserId, deque[_Waiting]] = {}
        # Changes of locked users, beyond those that already wait for the locks.
        self._held: deque[_Waiting] = deque()
        self._waiting = 0
        self._lines = 0
        self._alone = 0
        self._beginning = False
        # What a line waits for before its next group, and how many changes are enough of it.
        self._enough_came: asyncio.Future[None] | None = None
        self._enough = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._impatience: asyncio.TimerHandle | None = None

    async def change(self, wanted: Wanted) -> Changed:
        """Applies a change. Raises its error; Overloaded where too many wait; Unavailable."""
        outcome = await self.begin(wanted)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def begin(self, wanted: Wanted) -> asyncio.Future[Outcome]:
        """Begins a change, whose outcome comes; who does not want it any more cancels the future.

        Raises Overloaded where too many wait.
        """
        later = self._later.get(wanted.user_id)
        if self._waiting >= self._limits.waiting or (later and len(later) >= self._limits.of_a_user):
            raise Overloaded("Too many changes wait for their turn; try again shortly.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(wanted, loop.create_future(), loop.time())
        self._waiting += 1
        if later is None:
            self._later[wanted.user_id] = deque()
            self._ready.append(waiting)
            self._begin()
        else:
            later.append(waiting)
        self._look_soon(loop)
        return waiting.outcome

    async def end(self) -> None:
        """Ends what is under way. Changes that still wait fail with Unavailable."""
        for timer in (self._timer, self._impatience):
            if timer is not None:
                timer.cancel()
        for waiting in self._all_waiting():
            waiting.settle(Unavailable(_STOPPING))
        await end(*self._tasks)
        self._remove_over()

    # Groups

    def _begin(self) -> None:
        """Begins a line if one more may work and is needed. It finds all that come until its task runs."""
        if self._enough_came is not None and len(self._ready) >= self._enough:
            self._enough_came.set_result(None)
            self._enough_came = None
        if not self._ready or self._beginning or self._lines >= self._limits.lines:
            return
        if self._lines and len(self._ready) < self._limits.users and not self._waits_for_long():
            if self._impatience is None:
                loop = asyncio.get_running_loop()
                self._impatience = loop.call_later(self._limits.long, self._begin_after_all)
            return
        self._beginning = True
        self._lines += 1
        self._own(self._line())

    def _waits_for_long(self) -> bool:
        return asyncio.get_running_loop().time() - self._ready[0].since >= self._limits.long

    def _begin_after_all(self) -> None:
        self._impatience = None
        self._begin()

    async def _line(self) -> None:
        self._beginning = False
        loop = asyncio.get_running_loop()
        try:
            while group := self._next_group():
                self._begin()
                begun = loop.time()
                await self._take(group, self._apply.each)
                await self._pause(len(group), (loop.time() - begun) * self._limits.pause)
        finally:
            self._lines -= 1
            self._begin()

    async def _pause(self, answered: int, seconds: float) -> None:
        """Waits until those who were answered have sent their next changes, unless that was one alone."""
        enough = min(answered + len(self._ready), self._limits.worth)
        if enough == 1 or len(self._ready) >= enough or self._lines > 1 or not seconds:
            return
        self._enough = enough
        self._enough_came = enough_came = asyncio.get_running_loop().create_future()
        await asyncio.wait([enough_came], timeout=seconds)
        self._enough_came = None

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        slugs = 0
        while self._ready and len(group) < self._limits.users:
            waiting = self._ready[0]
            if group and slugs + waiting.size > self._limits.slugs:
                break
            self._ready.popleft()
            self._waiting -= 1
            if waiting.is_over:
                self._pass_on(waiting)
            else:
                slugs += waiting.size
                group.append(waiting)
        return group

    async def _take(
        self,
        group: Sequence[_Waiting],
        apply: Callable[[Sequence[Wanted]], Awaitable[Sequence[Outcome | Locked]]],
    ) -> None:
        outcomes: Sequence[Outcome | Locked] = [Unavailable(_STOPPING) for _ in group]
        applying = asyncio.ensure_future(apply([waiting.wanted for waiting in group]))
        for waiting in group:
            waiting.outcome.add_done_callback(partial(_end_without_requests, applying, group))
        try:
            outcomes = await applying
        except asyncio.CancelledError:
            # Either nobody waits for these changes any more, and they are undone; or this line ends.
            if (line := asyncio.current_task()) is None or line.cancelling():
                raise
        except Unavailable as error:
            outcomes = [type(error)(error.detail, **error.extra) for _ in group]
        except Exception as error:  # noqa: BLE001 - it is raised for each of these changes
            outcomes = [error] * len(group)
        finally:
            for waiting, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Locked):
                    self._hold(waiting)
                else:
                    waiting.settle(outcome)
                    self._pass_on(waiting)

    # Locked users

    def _hold(self, waiting: _Waiting) -> None:
        self._waiting += 1
        self._held.append(waiting)
        self._begin_alone()

    def _begin_alone(self) -> None:
        while self._held and self._alone < self._limits.alone:
            waiting = self._held.popleft()
            self._waiting -= 1
            if waiting.is_over:
                self._pass_on(waiting)
                continue
            self._alone += 1
            self._own(self._wait_for_lock(waiting))

    async def _wait_for_lock(self, waiting: _Waiting) -> None:
        try:
            await self._take([waiting], self._apply.together)
        finally:
            self._alone -= 1
            self._begin_alone()
            self._begin()

    # Turns

    def _pass_on(self, over: _Waiting) -> None:
        """Now it is the turn of the user's next change, if there is one."""
        user_id = over.wanted.user_id
        if later := self._later[user_id]:
            self._ready.append(later.popleft())
        else:
            del self._later[user_id]

    def _all_waiting(self) -> Iterator[_Waiting]:
        return chain(self._ready, self._held, *self._later.values())

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all is cheaper than one for each."""
        if self._timer is None:
            self._timer = loop.call_later(self._limits.seconds / 4, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends waits that took too long, and removes what is over."""
        self._timer = None
        begun_before = loop.time() - self._limits.seconds
        late = [waiting for waiting in self._all_waiting() if waiting.since < begun_before]
        for waiting in late:
            waiting.settle(Unavailable("The change waited too long for its turn; try again shortly."))
        if late:
            self._waited_too_long()
            self._remove_over()
        if self._waiting:
            self._look_soon(loop)

    def _remove_over(self) -> None:
        for later in self._later.values():
            rest = [waiting for waiting in later if not waiting.is_over]
            self._waiting -= len(later) - len(rest)
            later.clear()
            later.extend(rest)
        for queue in (self._ready, self._held):
            for _ in range(len(queue)):
                waiting = queue.popleft()
                if waiting.is_over:
                    self._waiting -= 1
                    self._pass_on(waiting)
                else:
                    queue.append(waiting)
        self._begin()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it in an empty context: it belongs to no request, in logs and traces neither."""
        task = asyncio.get_running_loop().create_task(work, name="apply changes", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _end_without_requests(
    applying: asyncio.Future[Any], group: Sequence[_Waiting], _: asyncio.Future[Outcome]
) -> None:
    """Undoes changes that no request waits for: a wait for a lock can be long."""
    if all(waiting.outcome.cancelled() for waiting in group):
        applying.cancel()
