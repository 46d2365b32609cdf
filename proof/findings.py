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
    Finding(
        "an import, or the order of a report, was answered 500 when PostgreSQL died while it was put into the"
        " queue",
        "there the library of the queue wraps PostgreSQL's errors in its own, which nobody took for an"
        " outage",
        "the wrapped error counts, so the answer is 503 with `Retry-After`, as for any other statement",
        "test_jobs.py",
    ),
    Finding(
        "a worker that was still starting when its supervisor was killed left a traceback",
        "it said that it was ready into a pipe that nobody reads any more",
        "it leaves that out: the end of the other pipe tells it to stop",
        "serve/test_child.py",
    ),
    Finding(
        "a start right after a kill of the supervisor failed: the port of gRPC was in use",
        "the gRPC worker of the killed service had its port until it ended; HTTP's is the supervisor's alone",
        "a start waits for that port, ten seconds at most",
        "serve/test_ports.py",
    ),
    Finding(
        "valid JSON with a field that no schema names was refused, and the OpenAPI document allowed it",
        "the framework does not tell what msgspec forbids",
        "every body in the document says that it has no other fields",
        "api/http/test_schemathesis_flows.py",
    ),
    Finding(
        "an HTTP process grew by a kilobyte with each request that the framework answers, without end",
        "the check of how values are written was remembered for each handler, of which the framework makes a"
        " copy for each request",
        "it is remembered for the function of the handler",
        "api/http/edge/test_plain_values.py",
    ),
    Finding(
        "when the network of a primary was cut and its standby promoted, writes were back after 10.7 to 11 s",
        "a connection whose other end was silent was given up after ten seconds",
        "after five",
        "serve/test_failing_over.py",
    ),
    Finding(
        "a job whose end a fail-over lost counted as running for as long as its worker lived, with its lock",
        "its worker was alive, so nobody took it over",
        "with each heartbeat a worker gives up the jobs that count as its own and that it does not know",
        "storage/test_job_queue.py",
    ),
    Finding(
        "a client that expects to be asked for its body was asked by the hot path before it was refused",
        "the body was received first",
        "such a request is for the framework, which refuses without asking",
        "api/http/hot/test_streams.py",
    ),
    Finding(
        "of the seeded faults, thirteen were noticed by no test near them: terms that end, and buckets that"
        " stand, at the very bound; the versions of erased users; names after a deletion; links of reports"
        " after an erasure; a renaming that changes only the case; a position that nobody was given",
        "tests asked a moment before or after, or only far from the fault",
        "each has a test",
        "proof/test_mutations.py",
    ),
)
