"""Changes in groups, while processes are killed or stopped: what was acknowledged is there, and whole."""

import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import httpx

from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, serving
from tests.support.rows import rows_of

CLIENTS = 16
SOME = 300


class Writers:
    """Clients that each add new users to two segments, and note what was acknowledged."""

    def __init__(self, service: Serving) -> None:
        self._service = service
        self._user_ids = itertools.count(1)
        self.acknowledged: set[int] = set()
        self.over = Event()

    def write(self) -> None:
        """Writes until it is over; what has no answer is not sent again."""
        while not self.over.is_set():
            with (
                suppress(httpx.TransportError),
                httpx.Client(base_url=self._service.url, timeout=PATIENCE_S, verify=TLS) as client,
            ):
                while not self.over.is_set():
                    self._add(client, next(self._user_ids))

    def write_some_more(self) -> None:
        """Returns when so many more changes were acknowledged."""
        enough = len(self.acknowledged) + SOME
        eventually(lambda: len(self.acknowledged) >= enough)

    def _add(self, client: httpx.Client, user_id: int) -> None:
        answer = client.post(f"/api/v1/users/{user_id}/segments", json={"add": ["A", "B"]})
        if answer.status_code == 200:
            self.acknowledged.add(user_id)
        else:
            assert answer.status_code == 503, answer.text


def test_a_killed_process_and_a_stop_lose_no_acknowledged_change_and_leave_none_half_done(
    empty_database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", empty_database_url, cwd=tmp_path, workers=2) as service:
        service.ready()
        for slug in ("A", "B"):
            httpx.post(f"{service.url}/api/v1/segments", json={"slug": slug}, verify=TLS).raise_for_status()
        writers = Writers(service)
        with ThreadPoolExecutor(CLIENTS) as pool:
            writing = [pool.submit(writers.write) for _ in range(CLIENTS)]
            try:
                writers.write_some_more()
                for _ in range(2):
                    os.kill(min(service.workers()), signal.SIGKILL)
                    writers.write_some_more()
                assert service.stop()[0] == 0
            finally:
                writers.over.set()
            for each in writing:
                each.result()
    with rows_of(empty_database_url) as rows:
        # Both segments or none, each with its event: a change is one transaction, also within a group.
        memberships = dict(
            rows("SELECT user_id, count(*) FROM memberships WHERE ended_at IS NULL GROUP BY 1")
        )
        events = dict(rows("SELECT user_id, count(*) FROM membership_events GROUP BY 1"))
        assert {*memberships.values()} == {2}
        assert events == memberships
        assert writers.acknowledged <= memberships.keys()
        assert len(memberships) - len(writers.acknowledged) <= 3 * CLIENTS
