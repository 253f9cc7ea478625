"""Picture of growth: CPU time and memory against each size, on logarithmic axes.

Dotted is what the arithmetic asks for, through the first point of the fits: FLOPs, and the exponent
that memory has at most. Needs matplotlib.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from disca_rt.atomic import write_whole
from disca_rt.measure.ladder import DPI, OTHERS, OURS
from disca_rt.measure.record import Record

from .growth_fit import larger_half
from .growth_page import MOST, exponent_of_time
from .growth_record import OURS as OUR_NAME
from .growth_record import Curve, size_of

WIDTH, HEIGHT = 13.0, 6.4  # inches
TITLES = {
    "tokens": "tokens",
    "steps": "steps of a sample",
    "batch": "samples at once",
    "ranks": "ranks: all ranks' time, one's memory",
}
ASKED = "what the arithmetic asks for"

Cost = Callable[[Record], float]


def write_picture(path: Path, curves: Sequence[Curve]) -> None:
    """Draws a column of two panels for each axis."""
    axes_of = list(dict.fromkeys(curve.axis for curve in curves))
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = figure.subplots(2, len(axes_of), squeeze=False)
    for (above, below), axis in zip(panels.T, axes_of, strict=True):
        drawn = [curve for curve in curves if curve.axis == axis]
        _draw(above, drawn, lambda record: record.cpu_median_s, lambda record: record.flops)
        _draw(below, drawn, _megabytes, lambda record, axis=axis: _most_memory(record, axis))
        above.set_title(_exponents(drawn), fontsize=8)
        below.set_xlabel(TITLES[axis], fontsize=9)
    panels[0, 0].set_ylabel("CPU seconds", fontsize=9)
    panels[1, 0].set_ylabel("MB beyond weights and inputs", fontsize=9)
    panels[0, 0].legend(fontsize=8, frameon=False)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=DPI, format="png"))


def _megabytes(record: Record) -> float:
    return record.memory["activations"] / 1e6


def _most_memory(record: Record, axis: str) -> float:
    return size_of(record) ** MOST[axis].memory


def _exponents(drawn: Sequence[Curve]) -> str:
    said = [f"{c.who} {exponent_of_time(c).median:.2f}" for c in drawn if len(c.sizes) > 1]
    return "exponents: " + ", ".join(said)


def _draw(panel: Axes, drawn: Sequence[Curve], cost: Cost, asked: Cost) -> None:
    for curve in drawn:
        is_ours = curve.who == OUR_NAME
        costs, colour = [cost(record) for record in curve.records], OURS if is_ours else OTHERS
        panel.plot(curve.sizes, costs, "o-", color=colour, label=curve.who, markersize=4)
        if is_ours:
            fitted = curve.records[larger_half(curve.sizes)]
            scale = cost(fitted[0]) / asked(fitted[0])
            line = [scale * asked(record) for record in fitted]
            sizes = [size_of(record) for record in fitted]
            panel.plot(sizes, line, ":", color="#444", linewidth=1.2, label=ASKED)
    _scale(panel, [size for size in drawn[-1].sizes if size & (size - 1) == 0])


def _scale(panel: Axes, ticks: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=7)
    panel.minorticks_off()
    panel.yaxis.set_major_formatter("{x:.3g}")
    panel.tick_params(axis="y", labelsize=7)
    low, high = panel.get_ylim()
    if high / low < 4:  # else noise would fill the panel
        panel.set_ylim(low / 2, high * 2)
    panel.spines[["top", "right"]].set_visible(False)
