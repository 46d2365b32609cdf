"""The tests that `make test` leaves out because they take long."""

import re
import subprocess
import sys

from proof.results import Measured


def run(seconds: float) -> Measured:
    """Runs them, at most for so long."""
    command = [sys.executable, "-m", "pytest", "-m", "proof", "--timeout", "3600", "--quiet"]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Measured("not done in time", [f"the tests take longer than {seconds:.0f} s"])
    print(ended.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    [*_, last] = ended.stdout.strip().splitlines() or [""]
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last)
    if ended.returncode and not failed:
        failed = [f"pytest ended with exit code {ended.returncode}"]
    return Measured(", ".join(counts), failed)
