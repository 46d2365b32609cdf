"""The follower of the guide, killed again and again, keeps its file level."""

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Serving, eventually, serving
from tests.support.readme_examples import blocks

PAGE = Path(__file__).parents[2] / "docs/guide/following.md"
SLUGS = ("A", "B", "C")


def change_something(node: Serving, chance: random.Random) -> None:
    """Members come and go; segments are renamed, deleted and made again."""
    slug, other = chance.sample(SLUGS, 2)
    with node.client() as client:
        match chance.randint(0, 9):
            case 0:
                client.delete(f"segments/{slug}")
            case 1:
                client.patch(f"segments/{slug}", json={"slug": other})
            case 2 | 3:
                client.post("segments", json={"slug": slug})
            case 4:
                client.delete(f"users/{chance.randint(1, 9)}", params={"erase": "true"})
            case number:
                wanted = {"add" if number < 8 else "remove": [slug]}
                client.post(f"users/{chance.randint(1, 9)}/segments", json=wanted)


def members(node: Serving) -> dict[str, list[int]]:
    with node.client() as client:
        slugs = [each["slug"] for each in client.get("segments").json()["segments"]]
        return {slug: client.get(f"segments/{slug}/users").json()["user_ids"] for slug in slugs}


@pytest.mark.timeout(180)
def test_the_follower_of_the_guide_survives_being_killed(database_url: str, tmp_path: Path) -> None:
    [code] = [block.text for block in blocks(PAGE.read_text("utf-8")) if block.language == "python"]
    assert len([line for line in code.splitlines() if line.strip()]) < 45
    chance = random.Random(3)
    with serving("--database-url", database_url, cwd=tmp_path) as node:
        url = node.ready().url
        script = tmp_path / "follower.py"
        script.write_text(re.sub(r"http://localhost:8080(?=/api)", url, code), "utf-8")

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)

        def copy() -> dict[str, list[int]]:
            path = tmp_path / "members.json"
            kept: dict[str, Any] = json.loads(path.read_text("utf-8"))["members"] if path.exists() else {}
            return {slug: sorted(map(int, users)) for slug, users in kept.items()}

        follower = start()
        try:
            for _ in range(8):
                for _ in range(12):
                    change_something(node, chance)
                follower.send_signal(signal.SIGKILL)
                follower.wait()
                follower = start()
            with node.client() as client:
                client.post("segments", json={"slug": "A"})
                client.post("users/10/segments", json={"add": ["A"]})
            eventually(lambda: copy() == members(node))
            assert 10 in members(node)["A"]
        finally:
            follower.kill()
            follower.wait()
