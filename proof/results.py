"""The figures of the latest run of each proof, and the page that is written from them."""

import fcntl
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import msgspec

from bench.programs import machine
from proof.faults import ALWAYS, FAULTS, Fault
from proof.findings import FINDINGS
from proof.whole import MOST_MINUTES

_RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).parents[1] / "docs" / "proof.md"

# Of the violations of a proof, so many are kept in words.
_SHOWN: Final = 5

_HEAD: Final = f"""\
# Proof

What production does to a service is done to segmentd here, and afterwards everything that it acknowledged is
compared with everything that it says. `make proof` does all of it and writes this page; each proof also runs
alone, and `--help` says how long it takes and what can be set:

    make proof
    make proof ARGS=kills
    .venv/bin/python -m proof kills --cycles 5 --seed 7

`make test` has the short forms. A violation is anything that contradicts the promise beside it; a run with a
violation ends with exit code 1.

All together take at most {MOST_MINUTES} minutes: first the soak alone, then two at a time in the order of
`--help`, each in a process of its own. The table says how long each may take: those that repeat something
then end with what they have done, and for any other it is a violation.

## Figures
"""


class Measured(msgspec.Struct, frozen=True):
    """What a proof did, in words with figures, and what contradicted its promise."""

    figures: str
    violations: list[str]


class Result(msgspec.Struct, frozen=True):
    """The row of a proof on the page."""

    promise: str
    figures: str
    violations: int
    seconds: int
    day: str
    commit: str
    machine: str
    minutes: float = 0.0
    """The most that it may take."""
    found: list[str] = []
    """The first violations."""

    @classmethod
    def of(cls, promise: str, measured: Measured, seconds: float, minutes: float) -> Self:
        """As of now, on this machine."""
        return cls(
            promise=promise,
            figures=measured.figures,
            violations=len(measured.violations),
            seconds=round(seconds),
            minutes=minutes,
            day=f"{datetime.now(UTC):%Y-%m-%d}",
            commit=_commit(),
            machine=machine(),
            found=[" ".join(each.split())[:300] for each in measured.violations[:_SHOWN]],
        )


def kept() -> dict[str, Result]:
    """The latest result of each proof."""
    return msgspec.json.decode(_RESULTS.read_bytes(), type=dict[str, Result]) if _RESULTS.exists() else {}


def keep(name: str, result: Result) -> None:
    """In place of the one before, on the page too; another process may do so at the same time."""
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = {**kept(), name: result}
        _RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
        PAGE.write_text(page(results), "utf-8")


def page(results: Mapping[str, Result]) -> str:
    """The page."""
    lines = [
        "| proof | what holds | what was done | violations | took | date, commit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {result.promise} | {result.figures} | {result.violations} | {_took(result)} |"
        f" {result.day}, {result.commit} |"
        for name, result in sorted(results.items())
    ]
    lines += [""] * any(result.found for result in results.values())
    lines += [f"- {name}: {found}" for name, result in sorted(results.items()) for found in result.found]
    machines = sorted({result.machine for result in results.values()})
    return "\n".join(
        [
            _HEAD,
            *lines,
            "",
            f"Machine: {'; '.join(machines)}.",
            "",
            *_faults(FAULTS),
            "",
            *_findings(),
            "",
        ]
    )


def _took(result: Result) -> str:
    most = f" of {60 * result.minutes:.0f}" if result.minutes else ""
    return f"{result.seconds}{most} s"


def _faults(faults: Mapping[str, Fault]) -> list[str]:
    lines = [
        "## Faults",
        "",
        "What must hold was written first. One word is a proof of that name, all else is a file in `tests/`;",
        "the proof `tests` runs the long forms of these. In each proof this must hold:",
        f"{ALWAYS}.",
        "",
        "| fault | what must hold too | shown by |",
        "| --- | --- | --- |",
    ]
    return lines + [
        f"| {name} | {'; '.join(fault.holds)} | {', '.join(f'`{place}`' for place in fault.shown_by)} |"
        for name, fault in faults.items()
    ]


def _findings() -> list[str]:
    lines = [
        "## What it found",
        "",
        "| what was seen | cause | now | test |",
        "| --- | --- | --- | --- |",
    ]
    return lines + [f"| {found.seen} | {found.cause} | {found.now} | `{found.test}` |" for found in FINDINGS]


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PAGE.parent)
    return ended.stdout.strip() or "of no repository"
