"""New connections over the HTTP processes of a node; the test is the processes."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Final

import pytest

from segmentd.serve.connection_queue import ConnectionQueue, EndedHere, taken_from
from segmentd.serve.distributor import LOOK_EVERY_S, Distributor

PATIENCE_S: Final = 30


class Process:
    """Takes connections from its queue when it is asked to."""

    def __init__(self, queue: ConnectionQueue, ended: EndedHere) -> None:
        self.queue = queue
        self.connections: list[socket.socket] = []
        self.ended = ended
        self.took = 0
        queue.is_served = True

    def take(self) -> int:
        """Takes what waits, and returns how many connections it has."""
        for taken in taken_from(self.queue.taking):
            if taken.connection is not None:
                self.connections.append(taken.connection)
                self.took += 1
        return len(self.connections)

    def end_one(self) -> None:
        """Ends one of its connections."""
        self.connections.pop().close()
        self.ended.add()


class Node:
    """The distributor of a node, its processes and its clients."""

    def __init__(self, folder: Path, workers: int, undo: ExitStack) -> None:
        self._listener = undo.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        self._clients: list[socket.socket] = []
        self.distributor = undo.enter_context(closing(Distributor(self._listener, folder, workers)))
        self.processes = [
            Process(queue, undo.enter_context(closing(EndedHere(folder, number))))
            for number, queue in enumerate(self.distributor.queues)
        ]
        self.address = self._listener.getsockname()
        undo.callback(self._close)

    async def connect(self, times: int = 1) -> None:
        """Clients that connect, whether or not anybody takes their connections."""
        for _ in range(times):
            client = socket.socket()
            client.settimeout(0)
            self._clients.append(client)
            await asyncio.get_running_loop().sock_connect(client, self.address)

    def taken(self) -> list[int]:
        """Every process takes what waits; how many connections each has."""
        return [process.take() for process in self.processes]

    def all_are_taken(self) -> bool:
        """Whether the processes have taken every connection so far, after taking what waits."""
        self.taken()
        return sum(process.took for process in self.processes) == len(self._clients)

    def load(self, number: int) -> int:
        """How many connections the distributor counts for a process."""
        connections, _ = self.distributor.queues[number].load
        return connections

    def names(self) -> list[str]:
        """The clients of all taken connections."""
        return sorted(str(each.getpeername()) for process in self.processes for each in process.connections)

    def clients(self) -> list[str]:
        """All clients."""
        return sorted(str(each.getsockname()) for each in self._clients)

    def _close(self) -> None:
        for each in [*self._clients, *(each for process in self.processes for each in process.connections)]:
            each.close()


@asynccontextmanager
async def node(folder: Path, workers: int) -> AsyncIterator[Node]:
    with ExitStack() as undo:
        made = Node(folder, workers, undo)
        made.distributor.begin()
        yield made
        made.distributor.pause()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the distributor sets no event
            await asyncio.sleep(0.005)


async def test_each_connection_goes_to_the_process_with_the_fewest(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with node(tmp_path, workers=3) as it:
        for _ in range(300):
            before = it.taken()
            if sum(before) and chance.random() < 0.4:
                chance.choice([process for process in it.processes if process.connections]).end_one()
                continue
            await it.connect()
            await eventually(it.all_are_taken)
            [number] = [number for number, count in enumerate(it.taken()) if count > before[number]]
            assert before[number] == min(before)


async def test_those_of_equal_number_take_turns(tmp_path: Path) -> None:
    async with node(tmp_path, workers=2) as it:
        got = []
        for _ in range(6):
            await it.connect()
            await eventually(lambda: sum(it.taken()))
            got.append(it.taken().index(1))
            it.processes[got[-1]].end_one()

        assert got in ([0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0])


async def test_many_at_once_fall_evenly(tmp_path: Path) -> None:
    async with node(tmp_path, workers=3) as it:
        await it.connect(100)
        await eventually(lambda: sum(it.taken()) == 100)

        assert sorted(it.taken()) == [33, 33, 34]


async def test_what_a_process_does_not_take_another_gets_until_it_takes_again(tmp_path: Path) -> None:
    async with node(tmp_path, workers=2) as it:
        stuck, other = it.processes
        await it.connect(10)

        await eventually(lambda: other.take() == 10)
        await asyncio.sleep(2 * LOOK_EVERY_S)  # it does not become usable by time alone
        await it.connect(5)
        await eventually(lambda: it.load(0) + it.load(1) == 15)
        assert it.load(0) == 0
        await eventually(lambda: other.take() == 15)
        assert stuck.take() == 0

        await eventually(lambda: not stuck.queue.is_late)
        await it.connect(5)
        await eventually(lambda: stuck.take() == 5)
        assert it.names() == it.clients()


async def test_what_waits_for_a_process_that_ended_another_gets(tmp_path: Path) -> None:
    async with node(tmp_path, workers=2) as it:
        dead, other = it.processes
        await it.connect(10)
        await eventually(lambda: it.load(0) + it.load(1) == 10)
        assert it.load(0) == 5
        dead.queue.is_served = False

        await eventually(lambda: other.take() == 10)

        dead.queue.begin()
        assert it.load(0) == 0
        dead.queue.is_served = True
        await it.connect(1)
        await eventually(lambda: dead.take() == 1)


async def test_if_there_is_no_other_its_successor_gets_them_and_counts_from_there(tmp_path: Path) -> None:
    async with node(tmp_path, workers=1) as it:
        [process] = it.processes
        await it.connect(10)
        await eventually(lambda: process.take() == 10)
        process.end_one()
        await it.connect(7)
        await eventually(lambda: it.load(0) == 16)

        process.queue.begin()
        await it.connect(1)

        assert it.load(0) == 7
        process.queue.is_served = True
        await eventually(lambda: process.take() == 9 + 7 + 1)


async def test_connections_for_which_no_process_has_room_wait_and_none_is_lost(tmp_path: Path) -> None:
    async with node(tmp_path, workers=2) as it:
        await it.connect(800)
        await eventually(lambda: all(queue.is_late for queue in it.distributor.queues))

        await eventually(lambda: sum(it.taken()) == 800)

        assert it.names() == it.clients()


async def test_the_last_connections_are_given_even_to_late_processes_and_the_port_is_closed(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, workers=2) as it:
        await it.connect(10)
        await eventually(lambda: all(queue.is_late for queue in it.distributor.queues))
        await it.connect(10)

        await it.distributor.close_port()

        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        assert sum(it.taken()) == 20
        assert max(it.taken()) - min(it.taken()) <= 1


async def test_without_room_for_the_counts_each_process_gets_as_many_until_there_is_room(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "missing"
    async with node(folder, workers=2) as it:
        await it.connect(10)
        await eventually(lambda: it.taken() == [5, 5])

        folder.mkdir()
        for process in it.processes:
            process.ended.memory.share()
        for _ in range(3):
            it.processes[0].end_one()
        await it.connect()  # after each, the distributor looks
        await eventually(lambda: it.taken() == [it.load(0), it.load(1)])
