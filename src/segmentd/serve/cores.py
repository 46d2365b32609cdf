"""How many processor cores a process may use: by its affinity, and by the CPU quota of its container."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The smaller of affinity and quota, and at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    membership = _content(_MEMBERSHIP)
    return cores_within(affinity, None if membership is None else cpu_quota(membership, _CGROUPS))


def cores_within(affinity: int, quota: float | None) -> int:
    """Whole cores: of a quota of 1.5, the half remains for the node worker."""
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cpu_quota(membership: str, cgroups: Path) -> float | None:
    """The least quota, in cores, of a control group and its parents; None: there is none.

    `membership` is the content of /proc/self/cgroup, `cgroups` the folder where version 1 or 2 is mounted. In
    a container the path may be the host's and be missing; then the root of the mount is the container's own
    group.
    """
    quotas = [quota for folder in _folders(membership, cgroups) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(membership: str, cgroups: Path) -> Iterator[Path]:
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / "cpu"
        else:
            continue
        below = PurePosixPath(path.lstrip("/"))
        yield from (root / each for each in (below, *below.parents) if ".." not in each.parts)


def _quota(folder: Path) -> float | None:
    found = _content(folder / "cpu.max")  # version 2: "150000 100000", or "max 100000"
    if found is None:
        quota, period = _content(folder / "cpu.cfs_quota_us"), _content(folder / "cpu.cfs_period_us")
        if quota is None or period is None:
            return None
        found = f"{quota.strip()} {period.strip()}"
    try:
        quota_us, period_us = map(int, found.split())
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
