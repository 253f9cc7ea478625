"""The picture of the judge: nearness against speed-up, a curve per method, the frontier drawn.

Needs matplotlib, an optional extra.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .subject import UNCACHED
from .summary import Summary, frontier

MARKERS = "osD^v<>Ppx*hX"
TICKS = 1, 2, 3, 4, 5, 6, 8, 10, 12, 16


def write_picture(path: Path, rows: Mapping[str, Sequence[Summary]]) -> None:
    """Write a PNG with a panel for each subject, by its title."""
    figure = Figure(figsize=(11, 6.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), squeeze=False)[:, 0]
    families = sorted({row.family for of_subject in rows.values() for row in of_subject})
    for axis, (title, of_subject) in zip(axes, rows.items(), strict=True):
        _draw(axis, title, [row for row in of_subject if row.policy != UNCACHED], families)
    figure.savefig(path, format="png", dpi=110)


def _draw(axis: Axes, title: str, rows: Sequence[Summary], families: Sequence[str]) -> None:
    best = frontier(rows)
    axis.step(
        [row.speedup for row in reversed(best)],
        [row.psnr.mean for row in reversed(best)],
        where="pre",
        color="0.2",
        linestyle="--",
        linewidth=1,
        label="frontier",
    )
    for family in families:
        colour = colormaps["tab10"](families.index(family) % 10)
        _draw_family(axis, [row for row in rows if row.family == family], colour)
    for row in best:
        axis.annotate(
            row.method,
            (row.speedup, row.psnr.mean),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
        )
    axis.set(title=title, xlabel="speed-up by FLOPs", xscale="log")
    axis.set_ylabel("PSNR to the run without a cache, dB")
    most = max((row.speedup for row in rows), default=1)
    axis.set_xticks([tick for tick in TICKS if tick <= 1.3 * most], minor=False)
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=6, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_family(axis: Axes, rows: Sequence[Summary], colour: object) -> None:
    methods = sorted({row.method for row in rows})
    for marker, method in zip(cycle(MARKERS), methods, strict=False):
        curve = sorted((r for r in rows if r.method == method), key=lambda row: row.speedup)
        points = [row.speedup for row in curve], [row.psnr.mean for row in curve]
        axis.plot(*points, color=colour, marker=marker, ms=5, lw=0.8, label=method)
