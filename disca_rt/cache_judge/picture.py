"""The picture of the judge: nearness against speed-up, for each subject.

A large panel has a frontier of each family over the points of all methods; below it a panel for
each family has the points of its methods, those that differ in one option's value joined by a line.
The frontier of all is in each. Needs matplotlib, an optional extra.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..cache.policies import read_policy
from .similarity import SAME
from .summary import Summary, frontier

WIDTH, LARGE, SMALL = 16.0, 6.5, 3.6  # inches: of all, and heights of both kinds of panels
ACROSS = 3  # panels of families
MARKERS = "osD^v<>Ppx*hX"
TICKS = (
    *([1, 2, 4, 8, 16, 32], [1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24]),
    [0.5, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20],
    *([number * step for number in range(1, round(20 / step))] for step in (0.2, 0.1, 0.05, 0.02)),
)
"""Places of ticks to choose from, from the coarsest on."""
MOST_TICKS, MOST_SMALL = 14, 9  # that are numbered, in both kinds of panels
ABOVE, BESIDE = 0.12, 0.1  # shares of the axes that names of points take, above and to the right
FAR_BELOW = 15.0  # dB under the frontier's last row, beyond which rows are out of sight
APART = 0.015  # of the width, between points that are named


def write_picture(path: Path, rows: Mapping[str, Sequence[Summary]]) -> None:
    """Write a PNG with panels for each subject, by its title.

    Settings under which nothing was cached are left out: they are the uncached run again.
    """
    subjects = [(title, [r for r in each if r.nearness < SAME]) for title, each in rows.items()]
    names = sorted({row.family for _, each in subjects for row in each})
    colours = {name: colormaps["tab10"](number % 10) for number, name in enumerate(names)}
    heights = [LARGE + SMALL * _down(each) for _, each in subjects]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(subjects), squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, each) in zip(parts, subjects, strict=True):
        _draw_subject(part, title, each, colours)
    figure.savefig(path, format="png", dpi=90)


def _families(rows: Sequence[Summary]) -> dict[str, list[Summary]]:
    names = sorted({row.family for row in rows})
    return {name: [row for row in rows if row.family == name] for name in names}


def _down(rows: Sequence[Summary]) -> int:
    """The number of rows of small panels."""
    return math.ceil(len(_families(rows)) / ACROSS)


def _draw_subject(
    part: SubFigure, title: str, rows: Sequence[Summary], colours: Mapping[str, object]
) -> None:
    large, *small = part.subfigures(1 + _down(rows), height_ratios=[LARGE, *[SMALL] * _down(rows)])
    axis = large.subplots()
    _draw_families(axis, rows, colours)
    _finish(axis, rows, title, MOST_TICKS)
    axis.set_ylabel(f"{_measure(rows)} to the run without a cache, dB")
    axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    _name_best(axis, rows)
    panels = [axis for row in small for axis in row.subplots(1, ACROSS)]
    families = _families(rows)
    for axis, (family, of_family) in zip(panels, families.items(), strict=False):
        _draw_methods(axis, of_family, rows)
        _finish(axis, rows, family, MOST_SMALL)
        axis.title.set_color(colours[family])
    for axis in panels[len(families) :]:
        axis.set_axis_off()


def _measure(rows: Sequence[Summary]) -> str:
    return "latents' signal over error" if any(row.psnr is None for row in rows) else "PSNR"


def _draw_families(axis: Axes, rows: Sequence[Summary], colours: Mapping[str, object]) -> None:
    for family, of_family in _families(rows).items():
        axis.plot(*_points(of_family), "o", color=colours[family], ms=3, alpha=0.5)
        style = {"color": colours[family], "linewidth": 1.5, "label": family}
        axis.step(*_points(frontier(of_family)[::-1]), where="pre", **style)
    _draw_frontier(axis, rows)


def _draw_methods(axis: Axes, of_family: Sequence[Summary], rows: Sequence[Summary]) -> None:
    """The points of each method, the best of its cheapest setting first in the legend."""
    methods = {row.method: [] for row in sorted(of_family, key=lambda row: row.policy)}
    for row in sorted(of_family, key=lambda row: row.speedup):
        methods[row.method].append(row)
    by_end = sorted(methods.items(), key=lambda item: -item[1][-1].nearness)
    for number, (marker, (method, points)) in enumerate(zip(cycle(MARKERS), by_end, strict=False)):
        colour = colormaps["tab20"]((2 * number + number // 10) % 20)  # dark ones first
        axis.plot(*_points(points), marker, color=colour, ms=4, label=method)
        for curve in _curves(points):
            axis.plot(*_points(curve), color=colour, lw=0.8)
    _draw_frontier(axis, rows)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _curves(rows: Sequence[Summary]) -> list[list[Summary]]:
    """Those of one method's rows, in their order, that differ in the value of one option only.

    Rows with other options, or another preset, are on no common line.
    """
    alike: dict[tuple, list[Summary]] = {}
    for row in rows:
        parts = read_policy(row.policy)
        keys = tuple(tuple(sorted(part.options)) for part in parts)
        alike.setdefault(keys, []).append(row)
    return [each for each in alike.values() if len(_varied(each)) == 1]


def _varied(rows: Sequence[Summary]) -> set[tuple[int, str]]:
    """The options, each with the number of its part, in which policies of the same ones differ."""
    first, *others = ([part.options for part in read_policy(row.policy)] for row in rows)
    return {
        (number, key)
        for other in others
        for number, options in enumerate(first)
        for key, value in options.items()
        if other[number][key] != value
    }


def _draw_frontier(axis: Axes, rows: Sequence[Summary]) -> None:
    style = {"color": "0.2", "linestyle": "--", "linewidth": 1, "label": "frontier of all"}
    axis.step(*_points(frontier(rows)[::-1]), where="pre", **style)


def _points(rows: Sequence[Summary]) -> tuple[list[float], list[float]]:
    return [row.speedup for row in rows], [row.nearness for row in rows]


def _finish(axis: Axes, rows: Sequence[Summary], title: str, most_ticks: int) -> None:
    """Axes that all panels of a subject share: those of rows that are not far below."""
    axis.set(title=title, xlabel="speed-up by FLOPs", xscale="log")
    if rows:
        low, high = min(r.speedup for r in rows) / 1.05, max(r.speedup for r in rows) * 1.05
        high *= (high / low) ** BESIDE
        axis.set_xlim(low, high)
        top, least = max(row.nearness for row in rows), frontier(rows)[0].nearness - FAR_BELOW
        bottom = max(min(row.nearness for row in rows) - 1, least)
        axis.set_ylim(bottom, top + 1 + ABOVE * (top - bottom))
        numbered, others = _ticks(low, high, most_ticks)
        axis.set_xticks(numbered, [f"{tick:g}" for tick in numbered])
        axis.set_xticks(others, [""] * len(others), minor=True)
    axis.grid(alpha=0.3)


def _ticks(low: float, high: float, most: int) -> tuple[list[float], list[float]]:
    """The places of the ticks that are numbered, at most `most`, and of finer ones between them."""
    within = [[tick for tick in ticks if low <= tick <= high] for ticks in TICKS]
    last = max((i for i, ticks in enumerate(within) if len(ticks) <= most), default=0)
    finer = within[min(last + 1, len(within) - 1)]
    return within[last], finer if len(finer) <= 3 * most else []


def _name_best(axis: Axes, rows: Sequence[Summary]) -> None:
    """The methods of the frontier, above its points; not twice in a row, nor where it is tight."""
    low, high = axis.get_xlim()
    apart, last = (high / low) ** APART, None
    for row in reversed(frontier(rows)):
        if last and (last.method == row.method or row.speedup < last.speedup * apart):
            continue
        last = row
        axis.annotate(
            row.method,
            (row.speedup, row.nearness),
            xytext=(1, 4),
            textcoords="offset points",
            rotation=35,
            fontsize=8,
        )
