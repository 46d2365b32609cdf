"""All proofs in one go: it surely ends, and no proof keeps another from its turn."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from proof.whole import Ended, Part, Whole
from tests.support.processes import is_alive

# A proof that notes when it ran; "hangs" and its child let nobody end them in order.
PROOF = """
import os, signal, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
begun = time.monotonic()
if name == "hangs":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not (child := os.fork()):
        os.setsid()
    (folder / f"pid-{os.getpid()}").touch()
    time.sleep(600)
time.sleep(0.2)
(folder / name).write_text(f"{begun} {time.monotonic()}")
sys.exit({"contradicts": 1, "breaks": 3}.get(name, 0))
"""


def ran(folder: Path, alone: Sequence[Part], beside: Sequence[Part], minutes: float = 3) -> dict[str, Ended]:
    whole = Whole(print, (sys.executable, "-c", PROOF, str(folder)), minutes, to_end_s=0.1)
    return {each.name: each for each in whole.run(alone, beside)}


def test_one_that_hangs_breaks_or_contradicts_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    names = ("hangs", "breaks", "contradicts", "holds")

    ended = ran(
        tmp_path, [Part("alone", 0.5)], [Part(name, 0.05 if name == "hangs" else 1) for name in names]
    )

    assert {name: each.held for name, each in ended.items()} == {
        **dict.fromkeys(names, False),
        "alone": True,
        "holds": True,
    }
    assert ended["contradicts"].because == ""
    assert "exit code 3" in ended["breaks"].because
    assert "did not end within" in ended["hangs"].because
    pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    assert not any(map(is_alive, pids))
    times = {name: [*map(float, (tmp_path / name).read_text().split())] for name in ("alone", *names[1:])}
    assert times["alone"][1] <= min(times[name][0] for name in names[1:])


@pytest.mark.parametrize("minutes", [0.0, 0.01])
def test_none_begins_when_its_time_is_over(tmp_path: Path, minutes: float) -> None:
    begun = time.monotonic()

    ended = ran(tmp_path, [], [Part("holds", 5)], minutes)

    assert time.monotonic() - begun < 30
    assert ended["holds"].because == "no time was left for it"
