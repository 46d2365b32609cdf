"""What fails at every attempt is in the log once a minute."""

import structlog
from structlog.testing import capture_logs

from segmentd.observability.throttled import ThrottledLog


def test_a_warning_is_logged_again_after_a_minute_or_with_other_values() -> None:
    now = 0.0
    throttled = ThrottledLog(structlog.get_logger("somewhere"), lambda: now)

    def logged(*warnings: tuple[str, str]) -> list[tuple[str, str]]:
        with capture_logs() as lines:
            for event, error in warnings:
                throttled.warning(event, error=error)
        return [(line["event"], line["error"]) for line in lines]

    assert logged(("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")) == [
        ("a", "1"), ("a", "2"), ("b", "1")
    ]  # fmt: skip
    now = 59.9
    assert logged(("a", "1"), ("a", "2")) == []
    now = 60.0
    assert logged(("a", "2"), ("b", "1"), ("b", "1")) == [("a", "2"), ("b", "1")]
