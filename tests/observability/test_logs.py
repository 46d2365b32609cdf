"""Log lines: one JSON object each, our own and those of libraries alike."""

import json
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
