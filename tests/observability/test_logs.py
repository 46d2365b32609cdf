"""Log lines: one JSON object each, our own and those of libraries; on a terminal, nothing that it obeys."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

_SCRIPT = """
import logging, sys
import structlog
from segmentd.observability.logs import set_up_logging

set_up_logging(sys.argv[1])
own, library = structlog.get_logger("segmentd.somewhere"), logging.getLogger("somebody.else")
structlog.contextvars.bind_contextvars(request_id="r-1")
own.debug("detail")
own.info("request", path="/a\\nb", status=200)
library.info("library %s", "says")
try:
    1 / 0
except ZeroDivisionError:
    own.exception("own failure")
    library.exception("its failure")
"""


def logged(level: str) -> list[dict[str, object]]:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, level], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == ""
    lines: list[dict[str, object]] = [json.loads(line) for line in ended.stderr.splitlines()]
    for line in lines:
        assert str(line.pop("timestamp")).endswith("Z")
        assert line.pop("request_id") == "r-1"
    return lines


def test_each_line_is_a_json_object_with_level_and_logger() -> None:
    request, library, *failures = logged("info")

    assert request == {
        "event": "request",
        "level": "info",
        "logger": "segmentd.somewhere",
        "path": "/a\nb",
        "status": 200,
    }
    assert library == {"event": "library says", "level": "info", "logger": "somebody.else"}
    for line, event, logger in zip(
        failures, ("own failure", "its failure"), ("segmentd.somewhere", "somebody.else"), strict=True
    ):
        assert "ZeroDivisionError: division by zero" in str(line.pop("exception"))
        assert line == {"event": event, "level": "error", "logger": logger}


@pytest.mark.parametrize(("level", "count"), [("debug", 5), ("info", 4), ("warning", 2), ("error", 2)])
def test_lines_below_the_level_are_not_written(level: str, count: int) -> None:
    assert len(logged(level)) == count


# What a terminal would obey, hide or break a line at: C0 with the escape, DEL, C1 with the one-byte CSI, the
# separators of lines, and what turns the direction of writing.
HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\r\n\b\x7f\x85\u2028\u202e\u2066\u200b\ud800"
SHOWN = r"\x1b[31m\x1b]0;owned\x07\x9b2J\r\n\x08\x7f\x85\u2028\u202e\u2066\u200b\ud800"

_HOSTILE_SCRIPT = f"""
import logging
import structlog
from segmentd.observability.logs import set_up_logging

set_up_logging("info")
own, library = structlog.get_logger("segmentd.somewhere"), logging.getLogger("somebody.else")
hostile = {HOSTILE!a}
own.info("request", path=f"<{{hostile}}>", many=[f"<{{hostile}}>"], error=ValueError(f"<{{hostile}}>"))
own.info("request", **{{f"<{{hostile}}>": 1}})
library.warning("library %s", f"<{{hostile}}>")
try:
    raise ValueError(f"<{{hostile}}>")
except ValueError:
    own.exception("own failure")
    library.exception("its failure")
"""


def on_a_terminal(script: str) -> list[str]:
    """The lines that a script leaves on a terminal, without the colours that we give them."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=its, env=os.environ | {"TERM": "xterm"}
    ) as run:
        os.close(its)
        written = bytearray()
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert run.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n").split("\n")


def test_a_terminal_is_sent_nothing_that_it_obeys_but_our_colours() -> None:
    lines = on_a_terminal(_HOSTILE_SCRIPT)

    assert all(line.isprintable() for line in lines), lines
    said = "\n".join(lines)
    assert said.count(f"<{SHOWN}>") == 3  # a value, a key, a library's line
    assert said.count(r"ValueError: <\x1b[31m") == 2  # two tracebacks
    # Each line of the log begins with its time, and every other one is indented.
    assert [line for line in lines if line and not re.match(r"20\d\d-\d\d-\d\dT|    ", line)] == []


def test_json_lines_are_plain_ascii_with_nothing_that_a_terminal_obeys() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _HOSTILE_SCRIPT], capture_output=True, check=True, timeout=60
    )
    assert re.fullmatch(rb"[ -~\n]+", ended.stderr)
    first, *_ = (json.loads(line) for line in ended.stderr.splitlines())
    assert first["path"] == f"<{HOSTILE}>"
