"""What the proofs found, with its cause and the test that keeps it from coming back."""

from typing import Final, NamedTuple


class Finding(NamedTuple):
    """A fault that was mended."""

    seen: str
    cause: str
    now: str
    test: str


FINDINGS: Final = (
    Finding(
        "after a kill of the supervisor, some running requests were answered 500, and the log had hundreds of"
        " errors",
        "the queue of connections from the supervisor ended, and its reader took that for a message: the"
        " error came again without a pause, and cut the stop short, so requests met closed resources",
        "the end of the queue is the end of new connections; running requests have their usual time",
        "serve/test_serving.py",
    ),
)
