"""Jobs that count as running, and that nobody works on."""

import asyncio

from procrastinate import App
from procrastinate.jobs import Status

from segmentd.storage.job_queue import QueueConnector
from tests.support.rows import Rows


async def test_a_living_worker_gives_up_the_jobs_that_it_does_not_know_and_no_others(
    database_url: str, rows: Rows
) -> None:
    app = App(connector=QueueConnector(database_url, asyncio.Event()))

    @app.task(name="nothing")
    async def nothing() -> None: ...

    async with app.open_async():
        jobs = app.job_manager
        worker = await jobs.register_worker()
        ids = [await nothing.defer_async() for _ in range(3)]
        ended, running = [await jobs.fetch_job(None, worker) for _ in range(2)]
        assert ended is not None
        assert running is not None
        await jobs.finish_job(ended, Status.SUCCEEDED, delete_job=False)
        # A fail-over lost that it ended; the answer that gave the third one to this worker was lost too.
        unknown = sorted({*ids} - {running.id})
        rows.run(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE id = ANY (%s)",
            worker,
            unknown,
        )

        await jobs.update_heartbeat(worker)
        assert [*await jobs.get_stalled_jobs(seconds_since_heartbeat=60)] == []
        await jobs.update_heartbeat(worker)
        stalled = [job.id for job in await jobs.get_stalled_jobs(seconds_since_heartbeat=60)]

    assert sorted(id_ for id_ in stalled if id_ is not None) == unknown
