"""Logs: JSON lines for machines, coloured lines on a terminal."""

import json
import logging
import sys
import time
from collections.abc import Callable
from io import StringIO
from typing import Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from segmentd.observability.terminal import printable

_MICROSECONDS: Final = 1_000_000


def set_up_logging(level: str) -> None:
    """Sends every log line, of libraries too, to standard error. Called once, when a process starts."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _Clock(),
    ]
    render: list[structlog.typing.Processor] = (
        [_made_printable, structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_as_json)]
    )
    root = logging.getLogger()
    root.handlers = [
        _handler(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=shared,
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            )
        )
    ]
    root.setLevel(level.upper())
    # Its warnings repeat what storage/database.py logs once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # The supervisor logs the start and end of each process.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # It logs two lines for every job, several times a minute; segmentd.jobs logs what matters.
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    # It logs each new attempt to send spans; if they are lost in the end, that is an error line.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, *render],
        logger_factory=_OwnLogger,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


class _OwnLogger:
    """Writes lines that are rendered already: the standard library's way takes half of a line's time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Writes the line to standard error, in one piece."""
        sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = msg


class _Clock:
    """Adds the time, in UTC; the text of a second is made once."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        second, microsecond = divmod(time.time_ns() // 1000, _MICROSECONDS)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line["timestamp"] = f"{self._text}.{microsecond:06d}Z"
        return line


def _made_printable(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """For a terminal: a path, a name or an error's text may hold control sequences."""
    return {
        printable(name): value
        if name == "exc_info"
        else printable(value if isinstance(value, str) else repr(value))
        for name, value in line.items()
    }


def _write_traceback(text: TextIO, exc_info: ExcInfo) -> None:
    """For a terminal: indented, so that no message of an error looks like a line of the log."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    lines = plain.getvalue().strip("\n").split("\n")
    text.writelines(f"\n    {printable(line)}" for line in lines)


def _as_json(line: EventDict, default: Callable[[object], object]) -> str:
    """ASCII only, with DEL escaped too."""
    try:
        text = msgspec.json.encode(line, enc_hook=default).decode()
    except UnicodeEncodeError:  # half a surrogate pair
        text = ""
    if text.isprintable() and text.isascii() and text:
        return text
    # It escapes all that is not ASCII but DEL; ten times as slow as msgspec, which escapes nothing of it.
    return json.dumps(line, default=default, separators=(",", ":")).replace("\x7f", "\\u007f")


def _handler(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler
