"""Errors as statuses of gRPC, by the one table of problems, with google.rpc's details."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from segmentd.api.problems import PROBLEMS, Problem, problem_of
from segmentd.domain.errors import Invalid, SegmentdError

DOMAIN: Final = "segmentd"
DETAILS: Final = "grpc-status-details-bin"

# What the fields of messages are called where HTTP has another name.
_NAMES: Final[Mapping[str, str]] = {"ttl_seconds": "ttl", "limit": "page_size", "cursor": "page_token"}


class Refusal(NamedTuple):
    """What ends a call that was refused."""

    problem: Problem
    code: grpc.StatusCode
    detail: str
    details: bytes
    """A google.rpc.Status."""


def refusal(error: SegmentdError) -> Refusal:
    """The status for an error of the use cases."""
    problem = problem_of(type(error))
    facts = {name: _fact(value) for name, value in error.extra.items() if name != "errors"}
    more: list[Message] = []
    if isinstance(error, Invalid):
        violations = [
            BadRequest.FieldViolation(field=field_path(fault.pointer), description=fault.detail)
            for fault in error.faults
        ]
        more.append(BadRequest(field_violations=violations))
    retry_after = error.retry_after or problem.retry_after
    if retry_after is not None:
        more.append(RetryInfo(retry_delay=Duration(seconds=retry_after)))
    return _refusal(problem, error.detail, facts, more)


def failure() -> Refusal:
    """The status for a bug."""
    return _refusal(PROBLEMS[SegmentdError], "Something went wrong on our side; the log has the details.")


def field_path(pointer: str) -> str:
    """The pointer `/add/1/ttl_seconds` as a path of fields, `add[1].ttl`."""
    path = ""
    for step in pointer.split("/")[1:]:
        if re.fullmatch("[0-9]+", step):
            path += f"[{step}]"
        else:
            path += f"{'.' if path else ''}{_NAMES.get(step, step)}"
    return path


def _refusal(
    problem: Problem, detail: str, facts: Mapping[str, str] | None = None, more: list[Message] | None = None
) -> Refusal:
    code = grpc.StatusCode[problem.grpc_status]
    reason = problem.kind.upper().replace("-", "_")
    info = ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts or {})
    status = Status(code=code.value[0], message=detail, details=map(_packed, [info, *(more or [])]))
    return Refusal(problem, code, detail, status.SerializeToString())


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _fact(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
