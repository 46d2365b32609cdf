"""A follower that starts goes on with the replica of an earlier run."""

from collections.abc import Callable
from pathlib import Path

import structlog

from segmentd.replica.files import Unusable, remove
from segmentd.replica.replica import store_path
from segmentd.replica.status import ReplicaStatus
from segmentd.replica.store import Store

_log = structlog.get_logger(__name__)


def resumed(folder: Path, status: ReplicaStatus, usable: Callable[[Path], Store]) -> Store | None:
    """The best replica of an earlier run that is usable, which own writes go to; all others are removed.

    `usable` opens one, and raises Unusable.
    """
    serving = store_path(folder, status.serving)
    found: Store | None = None
    for path in sorted(
        folder.glob("replica-*.lmdb"),
        key=lambda path: (path == serving, path.stat().st_mtime),
        reverse=True,
    ):
        try:
            found = found or usable(path)
        except Unusable as error:
            _log.info("replica not resumed", path=path.name, reason=str(error))
            if path == serving:
                status.clear()
        if found is None or found.path != path:
            remove(path)
    if found is None:
        return None
    try:
        found.expect_writes()
    except OSError:
        found.close()
        raise
    status.behind = found.behind()
    if found.path != serving:
        status.fresh_at = 0  # it was another replica's, or of another start of the machine
        found.forget_times()
        # It is not fresh, so nobody reads it yet. But it has to get own writes from now on: the next
        # round may not see them.
        status.serving = number_of(found)
    return found


def number_of(store: Store) -> int:
    """The number of the replica, which its file has in its name."""
    return int(store.path.stem.partition("-")[2])
