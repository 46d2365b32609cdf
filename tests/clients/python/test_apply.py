"""`segmentd apply`: the segments of a file."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from segctl.failures import WrongUse
from segctl.plans import Step, plan, read
from segmentd_client import Client
from segmentd_client.models import Segment
from tests.support.processes import run

NOW = datetime.now(UTC)
PRESENT = [
    Segment("A", "old", 10, "1", NOW),
    Segment("B", "", None, "2", NOW),
    Segment("C", "", 5, "3", NOW),
]


def planned(text: str, *, prune: bool = False) -> Sequence[Step]:
    return plan(read(yaml.safe_load(text)), PRESENT, prune=prune)


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        ("{slug: A}", []),
        ("{slug: A, percent: 10.0000, description: old, salt: 1}", []),
        ("{slug: A, percent: 12.5}", [Step("change", "A", {"percent": 10}, {"percent": 12.5})]),
        ("{slug: A, percent: null}", [Step("change", "A", {"percent": 10}, {"percent": None})]),
        (
            "{slug: B, percent: 0, description: new}",
            [
                Step(
                    "change",
                    "B",
                    {"description": "", "percent": None},
                    {"description": "new", "percent": 0},
                )
            ],
        ),
        ("{slug: D, percent: 1, salt: -7}", [Step("create", "D", {}, {"percent": 1, "salt": "-7"})]),
    ],
)
def test_a_plan_has_the_differences_alone(entry: str, steps: Sequence[Step]) -> None:
    assert planned(f"segments: [{entry}]") == steps


def test_only_pruning_deletes() -> None:
    assert planned("segments: [{slug: B}]") == []
    assert [(step.action, step.slug) for step in planned("segments: [{slug: B}]", prune=True)] == [
        ("delete", "A"),
        ("delete", "C"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("segments: [{slug: A, salt: 9}]", "A has the salt 1, which cannot be changed"),
        ("segments: [{slug: A}, {slug: A}]", "the file names A twice"),
        ("segments: [{slug: A, percentage: 5}]", "unknown field"),
        ("segments: [{slug: 5}]", "the file is not acceptable"),
        ("[]", "the file is not acceptable"),
    ],
)
def test_a_file_that_cannot_be_applied_is_refused_as_a_whole(text: str, words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        planned(text)


def test_a_file_is_applied_after_its_plan_was_shown(service_url: str, client: Client, tmp_path: Path) -> None:
    def apply(*flags: str) -> tuple[int, list[tuple[str, str]], str]:
        env = {"SEGMENTD_SERVER": service_url, "XDG_CONFIG_HOME": str(tmp_path)}
        ended = run("apply", "-f", "segments.yaml", *flags, cwd=tmp_path, env=env)
        steps = [(each["action"], each["slug"]) for each in json.loads(ended.stdout or "[]")]
        return ended.returncode, steps, ended.stderr

    client.segments.create("APPLIED-OLD", percent=10)
    (tmp_path / "segments.yaml").write_text(
        "segments:\n  - {slug: APPLIED-NEW, percent: 33.3333, salt: '5'}\n"
        "  - {slug: APPLIED-OLD, percent: null, description: 'ended'}\n"
    )
    steps = [("create", "APPLIED-NEW"), ("change", "APPLIED-OLD")]

    assert apply("--dry-run") == (3, steps, "")
    assert client.segments.get("APPLIED-OLD").percent == 10
    assert apply() == (0, steps, "")
    assert apply("--dry-run") == (0, [], "nothing to do\n")

    made, ended = client.segments.get("APPLIED-NEW"), client.segments.get("APPLIED-OLD")
    assert (made.percent, made.salt) == (33.3333, "5")
    assert (ended.percent, ended.description) == (None, "ended")
