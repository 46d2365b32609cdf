"""The process of a node that follows another one: keeps its replica, and the tokens, as they are there."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from segmentd.auth.known_tokens import KnownTokens
from segmentd.auth.told_tokens import ToldHere
from segmentd.background import background
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica.neighbour import CopyNeeded, NeighbourAway
from segmentd.replica.neighbour_follower import NeighbourFollower
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.http_neighbour import HttpNeighbour, token_of
from segmentd.serve.wiring import metrics_in, sampling
from segmentd.storage.no_database import Nowhere

# After a failure to learn about the tokens; each question waits for about a second by itself.
AGAIN_AFTER_S: Final = 0.5

_log = structlog.get_logger(__name__)


async def follow_neighbour(assignment: Assignment, duty: Duty) -> None:
    """Follows until the stop."""
    settings = assignment.settings
    if assignment.replica_dir is None or settings.follow is None:
        raise ValueError("a following worker needs a folder and a neighbour")
    folder, metrics = Path(assignment.replica_dir), metrics_in(assignment.metrics_dir)
    async with HttpNeighbour(settings.follow, token_of(settings)) as neighbour:
        with closing(KnownTokens(folder)) as left:
            async with (
                sampling(Nowhere(settings.follow), metrics),
                background(left.memory.share_when_there_is_room(), "share memory of the node"),
                background(_keep_tokens(ToldHere(neighbour.tokens, left)), "follow the tokens"),
            ):
                with closing(NeighbourFollower(neighbour, folder, metrics)) as follower:
                    duty.report_ready()
                    await follower.follow(duty.stop)


async def _keep_tokens(told: ToldHere) -> None:
    throttled = ThrottledLog(_log)
    while True:
        try:
            await told.look()
        except (NeighbourAway, CopyNeeded) as error:
            throttled.warning("cannot ask the neighbour for the tokens", error=str(error))
            await asyncio.sleep(AGAIN_AFTER_S)


def main() -> None:
    """The process."""
    run_child(follow_neighbour)


if __name__ == "__main__":
    main()
