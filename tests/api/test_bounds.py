"""What a value may be stands in the domain, so that a second door copies no rule."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import segmentd

SOURCE = Path(segmentd.__file__).parent
DOORS = [
    path
    for door in ("api", "cli")
    for path in SOURCE.glob(f"{door}/**/*.py")
    if path.parent.name != "generated"
]

BOUNDS = {
    "gt",
    "ge",
    "lt",
    "le",
    "multiple_of",
    "min_length",
    "max_length",
    "min_items",
    "max_items",
    "pattern",
}

# Limits of HTTP and gRPC, and the syntax of headers and of options: nothing of what a value may be.
OWN = {
    "api/grpc/calls.py": {
        "_GONE: Final = 499",
        "_OK: Final = 200",
        "_ERROR: Final = 500",
        "most_calls: int = 512",
        "seconds: float = 70.0",
    },
    "api/grpc/memberships.py": {"_PATIENCE_S: Final = 3600.0"},
    "api/grpc/server.py": {
        "_LARGEST_MESSAGE: Final = 2 ** 20",
        "_LARGEST_ANSWER: Final = 64 * 2 ** 20",
        "_EARLY_PINGS: Final = 4",
        "calls_of_connection: int = 1000",
        "ping_after_seconds: float = 60.0",
        "answer_seconds: float = 20.0",
        "ping_every_seconds: float = 10.0",
    },
    "api/grpc/written.py": {"_MOST_REMEMBERED: Final = 100000"},
    "api/http/documented.py": {"pattern='^/problems/[a-z-]+$'"},
    "api/http/hot/calls.py": {"_LONGEST_LOOKUP: Final = 2 ** 16"},
    "api/http/hot/changes.py": {"_LONGEST_CHANGE: Final = 2 ** 16"},
    "api/http/hot/posts.py": {"HEADS_REMEMBERED: Final = 256", "LONGEST_REMEMBERED: Final = 1024"},
    "api/http/hot/protocol.py": {"_AT_ONCE: Final = 64", "_WORTH_NO_COPY: Final = 2 ** 13"},
    "api/http/ofrep/event_links.py": {"RENEWED_EVERY_S: Final = 1800", "_INACTIVITY_S: Final = 120"},
    "api/http/ofrep/events.py": {
        "HEARTBEAT_S: Final = 15.0",
        "_LEAST_RETRY_MS: Final = 1000",
        "_RETRY_SPREAD_MS: Final = 4000",
    },
    "api/http/ofrep/hot.py": {"_LONGEST_BODY: Final = 2 ** 14"},
    "api/http/prefer.py": {"'(?:^|[,;\\\\s])wait\\\\s*=\\\\s*\\\\\"?(\\\\d{1,9})'"},
    "api/http/resources/feed.py": {"_RETRY_MS: Final = 1000"},
    "api/http/resources/reports.py": {"'bytes=(\\\\d{0,18})-(\\\\d{0,18})'"},
    "cli/tokens.py": {"'([1-9][0-9]{0,4})([dhm])'"},
}
CONNECTIONS = "api/http/edge/"
"""Modules about connections, headers and addresses, which no other door has."""


def is_number(node: ast.expr | None) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float() as value):
            return value not in {0, 1}
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
    return False


def bounds_of_calls(tree: ast.AST) -> Iterator[str]:
    """`Meta(max_length=500)` and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (ast.unparse(keyword) for keyword in node.keywords if keyword.arg in BOUNDS)


def numbers(tree: ast.AST) -> Iterator[str]:
    """Constants, comparisons with a number, and texts with a number of repetitions, as `{0,127}`."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=value) if is_number(value):
                yield ast.unparse(node)
            case ast.Compare(left=left, comparators=right) if any(is_number(side) for side in [left, *right]):
                yield ast.unparse(node)
            case ast.Constant(value=str() | bytes() as text) if re.search(r"\{\d*,?\d+\}", str(text)):
                yield ast.unparse(node)


def bounds(module: Path) -> Iterator[str]:
    name = module.relative_to(SOURCE).as_posix()
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = [*bounds_of_calls(tree), *([] if name.startswith(CONNECTIONS) else numbers(tree))]
    yield from (f"{name}: {text}" for text in found if text not in OWN.get(name, set()))


def test_no_bound_of_a_value_stands_at_a_door() -> None:
    assert [text for module in DOORS for text in bounds(module)] == []


def test_what_is_a_doors_own_is_there() -> None:
    for name, texts in OWN.items():
        tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
        assert texts <= {*bounds_of_calls(tree), *numbers(tree)}, name


def test_bounds_in_all_their_forms_are_found() -> None:
    tree = ast.parse(
        "Name = Annotated[str, Meta(max_length=256)]\nMOST = 10 ** 12\nok = 0 <= days <= 3650\n"
        'SLUG = re.compile("[a-z]{0,127}")'
    )

    assert [*bounds_of_calls(tree)] == ["max_length=256"]
    assert [*numbers(tree)] == ["MOST = 10 ** 12", "0 <= days <= 3650", "'[a-z]{0,127}'"]
