"""How many cores there are for HTTP processes, according to control groups."""

from pathlib import Path

import pytest

from segmentd.config import Settings
from segmentd.serve.cores import cores_within, cpu_quota, usable_cores
from segmentd.serve.supervisor import worker_count

V2 = "0::/\n"
V2_ON_A_HOST = "0::/system.slice/segmentd.service\n"
V2_OUTSIDE = "0::/../../elsewhere\n"
V1 = "12:memory:/docker/4a\n4:cpu,cpuacct:/docker/4a\n1:name=systemd:/docker/4a\n0::/docker/4a\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (V2, {"cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"cpu.max": "max 100000\n"}, None),
        (V2, {"cpu.max": "50000 100000"}, 0.5),
        (V2, {}, None),
        (V2, {"cpu.max": ""}, None),
        (V2, {"cpu.max": "1 2 3"}, None),
        (V2, {"cpu.max": "100000 0"}, None),
        (V2_OUTSIDE, {"cpu.max": "200000 100000"}, 2),
        (V2_ON_A_HOST, {"system.slice/segmentd.service/cpu.max": "300000 100000"}, 3),
        (
            V2_ON_A_HOST,
            {
                "system.slice/segmentd.service/cpu.max": "max 100000",
                "system.slice/cpu.max": "400000 100000",
            },
            4,
        ),
        (
            V2_ON_A_HOST,
            {
                "system.slice/segmentd.service/cpu.max": "600000 100000",
                "system.slice/cpu.max": "400000 100000",
            },
            4,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (
            V1,
            {"cpu/docker/4a/cpu.cfs_quota_us": "50000", "cpu/docker/4a/cpu.cfs_period_us": "25000"},
            2,
        ),
        (V1, {"memory/cpu.cfs_quota_us": "50000", "memory/cpu.cfs_period_us": "25000"}, None),
        ("", {"cpu.max": "100000 100000"}, None),
        ("nonsense\n::\n0:\n", {}, None),
    ],
)
def test_the_quota_is_the_least_one_of_the_group_and_those_above_it(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    assert cpu_quota(membership, tmp_path) == quota


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 1), (8, 0.2, 1), (2, 16.0, 2), (1, None, 1), (1, 0.5, 1)],
)
def test_it_is_the_smaller_of_affinity_and_quota_and_at_least_one(
    affinity: int, quota: float | None, cores: int
) -> None:
    assert cores_within(affinity, quota) == cores


def test_workers_are_as_many_as_set_or_as_there_are_cores() -> None:
    assert worker_count(Settings(workers=3)) == 3
    assert worker_count(Settings()) == usable_cores() >= 1
