"""The table that a run prints."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from bench.figures import Figure, Skipped, Spread, Verdict, shown

MARKS: Final[dict[Verdict, str]] = {
    "aim": "[green]aim[/]",
    "reached": "[green]reached[/]",
    "missed": "[red]missed[/]",
    "–": "–",
}


def table(rows: Sequence[Figure | Skipped], title: str) -> Table:
    """One line for each figure: median, spread, ratio to the reference, and the target."""
    made = Table(title=title, title_justify="left", caption_justify="left", show_lines=False)
    for heading in ("name", "figure", "reference", "ratio", "must", "aim", "", "remark"):
        made.add_column(heading, justify="right" if heading in {"figure", "ratio", "must", "aim"} else "left")
    for row in rows:
        made.add_row(*(_skipped(row) if isinstance(row, Skipped) else _measured(row)))
    made.caption = (
        "median \\[lowest–highest] of the rounds; a ratio is speed against the reference in the same round"
    )
    return made


def spread(found: Spread) -> str:
    """`0.31 [0.29–0.33]`; one round has no spread."""
    if found.low == found.high:
        return shown(found.median)
    return f"{shown(found.median)} \\[{shown(found.low)}–{shown(found.high)}]"


def _measured(row: Figure) -> list[str]:
    target, sign = row.target, "≤" if row.target and row.target.at_most else "≥"
    reference = row.reference
    if row.reference_values:
        reference += f": {shown(Spread.of(row.reference_values).median)}"
    return [
        row.name,
        f"{spread(Spread.of(row.values))} {row.unit}",
        reference,
        spread(row.judged) if row.reference_values else "–",
        f"{sign} {shown(target.must)}" if target else "–",
        f"{sign} {shown(target.aim)}" if target else "–",
        MARKS[row.verdict],
        row.note,
    ]


def _skipped(row: Skipped) -> list[str]:
    mark = "[red]failed[/]" if row.failed else "[yellow]skipped[/]"
    return [row.name, "–", "–", "–", "–", "–", mark, row.reason]
