"""Ladder of results as a PNG: each benchmark's contenders as bars, slowest first, with their gain.

`python -m disca_rt.measure.ladder FILE.jsonl OUT.png` draws it on any machine with matplotlib.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..units import time_unit
from .record import Record, read_records

OURS, OTHERS = "#1f6f8b", "#b8bfc6"
BAR, MARGIN, WIDTH, DPI = 0.34, 0.95, 10.0, 150  # inches; of a panel's title and scale
NEEDS = "the ladder needs matplotlib: pip install 'disca_rt[plot]'"


def panels(records: Sequence[Record]) -> list[list[Record]]:
    """Records of each comparison of models with at least two contenders, the slowest first."""
    found: dict[tuple, list[Record]] = {}
    for record in records:
        if "model" in record.shape:
            found.setdefault(record.comparison, []).append(record)
    several = [panel for panel in found.values() if len(panel) > 1]
    return [sorted(panel, key=lambda r: r.median_s, reverse=True) for panel in several]


def titles(drawn: Sequence[Sequence[Record]]) -> list[str]:
    """Titles of panels; equal ones are told apart by what differs in their work."""
    firsts = [panel[0] for panel in drawn]
    plain = [f"{first.benchmark}, {first.dtype}{_weights(first)}" for first in firsts]
    said = []
    for label, first in zip(plain, firsts, strict=True):
        alike = [_work(each) for each, other in zip(firsts, plain, strict=True) if other == label]
        differing = [
            f"{name} {value}"
            for name, value in _work(first).items()
            if any(work.get(name) != value for work in alike)
        ]
        said.append(", ".join([label, *differing]))
    return said


def write_ladder(path: Path, records: Sequence[Record]) -> None:
    """Draws the ladder to `path`; ValueError without two contenders, or without matplotlib."""
    drawn = panels(records)
    if not drawn:
        raise ValueError("nothing to draw: no benchmark has two contenders")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(NEEDS) from error
    heights = [MARGIN + BAR * len(panel) for panel in drawn]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(drawn), squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel, title in zip(axes, drawn, titles(drawn), strict=True):
        _draw(axis, panel)
        axis.set_title(title, fontsize=9, loc="left")
    figure.suptitle(_title(records), fontsize=9, x=0.01, ha="left")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=DPI, format="png"))


def _draw(axis: object, panel: Sequence[Record]) -> None:
    slowest = panel[0].median_s
    unit, scale = time_unit(slowest)
    times = [record.median_s * scale for record in panel]
    ends = [
        [(r.median_s - r.p5_s) * scale for r in panel],
        [(r.p95_s - r.median_s) * scale for r in panel],
    ]
    colours = [OURS if _is_ours(record) else OTHERS for record in panel]
    axis.barh(
        range(len(panel)), times, color=colours, height=0.7, xerr=ends,
        error_kw={"ecolor": "#444", "elinewidth": 0.8, "capsize": 2},
    )  # fmt: skip
    for row, record in enumerate(panel):
        gain = slowest / record.median_s
        said = f"{record.median_s * scale:,.3g} {unit}" + (f"   {gain:.2f}×" if row else "")
        axis.annotate(
            said, (record.p95_s * scale, row), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(range(len(panel)), [record.contender for record in panel], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.22 * max(record.p95_s * scale for record in panel))
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(unit, fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _is_ours(record: Record) -> bool:
    """True for this package's own contender: only that is asked for its memory."""
    return bool(record.memory) or not record.contender.startswith(("eager", "diffusers"))


def _work(record: Record) -> dict[str, Any]:
    """Names and values of what a comparison runs, and on what."""
    where = {"threads": record.threads, "ranks": record.ranks, "device": record.device}
    return record.shape | where | {"weights": record.weights}


def _weights(record: Record) -> str:
    return f", {record.weights} weights" if record.weights.startswith("random") else ""


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    libraries = "".join(f", {name} {version}" for name, version in first.libraries.items())
    return (
        f"{first.device}, PyTorch {first.torch}{libraries}, {first.time[:10]}. "
        "Medians, p5 to p95; gains over each panel's slowest."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m disca_rt.measure.ladder", description=__doc__)
    parser.add_argument("file", type=Path, help="a results file")
    parser.add_argument("out", type=Path, help="the picture (.png)")
    args = parser.parse_args(argv)
    try:
        write_ladder(args.out, read_records(args.file))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
