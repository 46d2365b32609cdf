"""`make audit`: asks pip-audit for known vulnerabilities in the packages of a lock file.

It exits with 0 if there are none, and, with a message, if no service can be reached; with 1 if there are
some; with 2 if pip-audit fails in any other way.
"""

import re
import subprocess
import sys
from typing import Final

import msgspec

LONGEST_AUDIT_S: Final = 600
# What pip-audit prints if the service does not answer or answers with an error: a stack trace, or advice.
UNREACHABLE: Final = re.compile(
    r"^requests\.exceptions\.|^pip_audit\._service\.interface\.ServiceError$|your network may be blocking",
    re.MULTILINE,
)


class Vulnerability(msgspec.Struct, frozen=True):
    """One known vulnerability of a package."""

    id: str
    fix_versions: list[str]


class Package(msgspec.Struct, frozen=True):
    """One line of the lock file, and what the service knows about it."""

    name: str
    version: str = ""
    vulns: list[Vulnerability] = []
    skip_reason: str | None = None


class Report(msgspec.Struct, frozen=True):
    """pip-audit's answer in JSON."""

    dependencies: list[Package]


def audit(lock: str) -> int:
    """Prints the vulnerabilities and returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
    command += ["--desc", "off", "--progress-spinner", "off", "--requirement", lock]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_AUDIT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"audit: failed, pip-audit has no answer after {LONGEST_AUDIT_S} seconds", file=sys.stderr)
        return 2
    try:
        return show(msgspec.json.decode(asked.stdout, type=Report).dependencies)
    except msgspec.DecodeError:
        if UNREACHABLE.search(asked.stderr):
            print("audit: skipped, the vulnerability service cannot be reached")
            return 0
        print(asked.stderr, "audit: failed, pip-audit has no answer", sep="", file=sys.stderr)
        return 2


def show(packages: list[Package]) -> int:
    """Prints the vulnerabilities of these packages and returns the exit code."""
    unknown = [package.name for package in packages if package.skip_reason is not None]
    if len(unknown) == len(packages):
        # This is what a mirror answers that has only packages.
        print("audit: skipped, the vulnerability service knows none of the packages")
        return 0
    if unknown:
        print(f"audit: the service does not know {', '.join(unknown)}")
    for package in packages:
        for vulnerability in package.vulns:
            fixed = " or ".join(vulnerability.fix_versions) or "no version yet"
            print(f"{package.name} {package.version}: {vulnerability.id}, fixed in {fixed}")
    found = sum(len(package.vulns) for package in packages)
    print(f"audit: known vulnerabilities in {len(packages) - len(unknown)} packages: {found or 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1]))
