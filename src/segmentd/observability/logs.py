"""Logs: JSON lines for machines, coloured lines on a terminal."""

import logging
import sys

import structlog


def set_up_logging(level: str) -> None:
    """Sends every log line, of libraries too, to standard error. Called once, when a process starts."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
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
    # Our own lines, one a change of data, come rendered.
    own = logging.getLogger("segmentd")
    own.handlers = [_handler(logging.Formatter("%(message)s"))]
    own.propagate = False
    # Its warnings repeat what storage/database.py says once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # Each process's start and end: the supervisor says what there is to say.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # Two lines for every job, several times a minute; what matters, segmentd.jobs says.
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    # Each new attempt to send spans; that they are lost in the end, it says as an error.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, *render],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


def _handler(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler
