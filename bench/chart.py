"""The chart of a run: how far each figure is from what it must reach."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl

from bench.figures import JUDGED, Figure

mpl.use("agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.patches import Patch

COLOURS: Final = {"aim": "#2e7d32", "reached": "#7cb342", "missed": "#c62828"}


def draw(rows: Sequence[Figure], title: str, path: Path) -> None:
    """Writes a PNG with a bar for each figure that has a target; 1 is what must be reached."""
    judged = [row for row in rows if row.target is not None][::-1]
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.42 * len(judged)), layout="constrained")
    for place, row in enumerate(judged):
        found = [row.score(value) for value in row.judged]
        low, high = min(found), max(found)
        axes.barh(place, found[0], color=COLOURS[row.verdict], height=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1.5)
        if row.target is not None:
            axes.plot(row.score(row.target.aim), place, marker="d", color="#1565c0", linestyle="none")
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(judged)), [row.name for row in judged])
    axes.set_xlabel("times what must be reached; the line: lowest to highest round; ◆ the aim")
    axes.set_title(title, loc="left", fontsize=10)
    handles = [Patch(color=COLOURS[verdict]) for verdict in JUDGED]
    axes.legend(handles, JUDGED, loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
