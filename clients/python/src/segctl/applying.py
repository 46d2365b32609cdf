"""`segmentd apply`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import Parameter

from segctl.connection import USUAL, Where
from segctl.failures import DIFFERENCES, CommandFailed, WrongUse
from segctl.output import form_of, heading, say, show_all
from segctl.plans import File, Step, plan, read
from segmentd_client import UNSET, Client

_SIGNS = {"create": "+", "change": "~", "delete": "-"}


def apply(
    *,
    file: Annotated[str, Parameter(alias="-f", help="YAML with `segments`; - is standard input.")],
    dry_run: Annotated[bool, Parameter(negative="", help="Only show the plan; 3 if there is one.")] = False,
    prune: Annotated[
        bool, Parameter(negative="", help="Delete segments that the file does not name.")
    ] = False,
    where: Where = USUAL,
) -> None:
    """Make the segments those of a file: create and change them, and with --prune delete others.

    The whole plan is known before the first step; a step that fails ends it, and it can be run again.
    """
    wanted = _read(file)
    with where.opened() as client:
        steps = plan(wanted, [*client.segments.list(limit=1000)], prune=prune)
        made = iter(steps) if dry_run else _made(client, steps)
        if form_of(where.output) == "table":
            for step in made:
                heading(_line(step))
        else:
            show_all(made, Step.__struct_fields__, where.output)
    if not steps:
        say("nothing to do")
    elif dry_run:
        raise CommandFailed("", DIFFERENCES)


def _read(file: str) -> File:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
        return read(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WrongUse(f"cannot read {file}: {error}") from None


def _made(client: Client, steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        _make(client, step)
        yield step


def _make(client: Client, step: Step) -> None:
    match step.action:
        case "create":
            client.segments.create(
                step.slug,
                description=_text(step.after.get("description")),
                percent=_number(step.after.get("percent")),
                salt=_text(step.after.get("salt")),
            )
        case "change":
            client.segments.update(
                step.slug,
                description=_text(step.after.get("description")),
                percent=_number(step.after["percent"]) if "percent" in step.after else UNSET,
            )
        case "delete":
            client.segments.delete(step.slug)


def _text(value: str | float | None) -> str | None:
    return None if value is None else str(value)


def _number(value: str | float | None) -> float | None:
    return None if value is None else float(value)


def _line(step: Step) -> str:
    if step.action == "change":
        fields = [f"{name} {step.before[name]} → {value}" for name, value in step.after.items()]
    else:
        fields = [f"{name} {value}" for name, value in step.after.items()]
    return f"{_SIGNS[step.action]} {step.action} {step.slug}  {', '.join(fields)}".rstrip()
