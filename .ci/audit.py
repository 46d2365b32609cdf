"""`make audit`: asks pip-audit whether holes are known in the packages of a lock file.

It leaves with 0 where none are known, and where nobody can be asked, which it says; with 1 where some are
known; with 2 where pip-audit fails in any other way.
"""

import re
import subprocess
import sys
from typing import Final

import msgspec

LONGEST_AUDIT_S: Final = 600
# How pip-audit ends where the service does not answer, or with an error: broken off, or with its advice.
UNREACHABLE: Final = re.compile(
    r"^requests\.exceptions\.|^pip_audit\._service\.interface\.ServiceError$|your network may be blocking",
    re.MULTILINE,
)


class Hole(msgspec.Struct, frozen=True):
    """What is known of one."""

    id: str
    fix_versions: list[str]


class Package(msgspec.Struct, frozen=True):
    """One line of the lock file, and what the service knows of it."""

    name: str
    version: str = ""
    vulns: list[Hole] = []
    skip_reason: str | None = None


class Report(msgspec.Struct, frozen=True):
    """pip-audit's answer in JSON."""

    dependencies: list[Package]


def audit(lock: str) -> int:
    """Prints what is known and returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
    command += ["--desc", "off", "--progress-spinner", "off", "--requirement", lock]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_AUDIT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"audit: failed, pip-audit has no answer after {LONGEST_AUDIT_S} seconds", file=sys.stderr)
        return 2
    try:
        return tell(msgspec.json.decode(asked.stdout, type=Report).dependencies)
    except msgspec.DecodeError:
        if UNREACHABLE.search(asked.stderr):
            print("audit: skipped, the service that knows of holes cannot be reached")
            return 0
        print(asked.stderr, "audit: failed, pip-audit has no answer", sep="", file=sys.stderr)
        return 2


def tell(packages: list[Package]) -> int:
    """Prints what is known of these packages and returns the exit code."""
    unknown = [package.name for package in packages if package.skip_reason is not None]
    if len(unknown) == len(packages):
        # So answers a mirror that has packages and nothing else.
        print("audit: skipped, the service that was asked knows none of the packages")
        return 0
    if unknown:
        print(f"audit: nothing is known, good or bad, of {', '.join(unknown)}")
    for package in packages:
        for hole in package.vulns:
            mended = " or ".join(hole.fix_versions) or "no version yet"
            print(f"{package.name} {package.version}: {hole.id}, mended in {mended}")
    holes = sum(len(package.vulns) for package in packages)
    print(f"audit: known holes in {len(packages) - len(unknown)} packages: {holes or 'none'}")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1]))
