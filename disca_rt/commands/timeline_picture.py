"""Picture of the predicted timeline of each kind of block: a lane for compute, one per wire.

Needs matplotlib, an optional extra. Knows activities, not how they came.
"""

from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..simulation.forecast import BlockForecast, Forecast
from ..simulation.timeline import COMPUTE, Activity, RankTimeline

COLOURS = {
    "QKV": "#4477aa",
    "attention": "#228833",
    "MLP": "#66ccee",
    "output": "#aa3377",
    "elementwise": "#bbbbbb",
    "V": "#ccbb44",
    "K": "#ee9944",
    "Q": "#ee6677",
    "O": "#994455",
    "ring": "#ddaa99",
}
DARK = {"QKV", "attention", "output", "O"}  # written on in white
LANE_HEIGHT = 0.7
NARROWEST = 0.005  # of the picture's width for each letter of a name that is written on its bar
WAITING = {"facecolor": "white", "edgecolor": "#cc3311", "hatch": "////", "linewidth": 0.0}


def write_timeline(path: Path, predicted: Forecast, title: str) -> None:
    """Writes a PNG with the busiest rank's block of each kind, on one scale of time."""
    blocks = list(predicted.blocks.values())
    figure = Figure(figsize=(14, 1.2 + 2.2 * len(blocks)), layout="constrained")
    longest = max(block.timelines[block.busiest].seconds for block in blocks)
    for place, block in enumerate(blocks, start=1):
        axes = figure.add_subplot(len(blocks), 1, place)
        _draw(axes, block, 1e3 * longest)
    drawn = [each for block in blocks for each in block.timelines[block.busiest].activities]
    kinds = {each.kind for each in drawn}
    shown = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items() if kind in kinds]
    shown.append(Patch(**WAITING, label="waiting"))
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=120)


def _draw(axes: Axes, block: BlockForecast, longest_ms: float) -> None:
    timeline, cost = block.timelines[block.busiest], block.cost
    lanes = timeline.lanes
    for start, stop in _waits(timeline):
        axes.barh(0, 1e3 * (stop - start), left=1e3 * start, height=LANE_HEIGHT, **WAITING)
    for each in timeline.activities:
        _draw_activity(axes, each, lanes.index(each.lane), longest_ms)
    axes.set(
        xlim=(0, longest_ms),
        ylim=(len(lanes) - 0.5, -0.5),
        yticks=range(len(lanes)),
        yticklabels=lanes,
        xlabel="ms",
    )
    axes.set_title(
        f"{block.kind}-stream block, rank {block.busiest}: {1e3 * cost.seconds:.2f} ms, "
        f"{cost.exposed_share:.1%} exposed, efficiency {cost.efficiency:.3f}",
        loc="left",
        fontsize=10,
    )
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_activity(axes: Axes, each: Activity, lane: int, longest_ms: float) -> None:
    start, width = 1e3 * each.start, 1e3 * (each.stop - each.start)
    axes.barh(
        lane, width, left=start, height=LANE_HEIGHT, color=COLOURS[each.kind],
        edgecolor="white", linewidth=0.5,
    )  # fmt: skip
    if width > NARROWEST * longest_ms * len(each.name):
        colour = "white" if each.kind in DARK else "black"
        place = {"ha": "center", "va": "center", "fontsize": 8}
        axes.text(start + width / 2, lane, each.name, color=colour, **place)


def _waits(timeline: RankTimeline) -> list[tuple[float, float]]:
    """Start and stop, in seconds, of each time that compute stands still."""
    computing = [each for each in timeline.activities if each.lane == COMPUTE]
    gaps = [(before.stop, after.start) for before, after in pairwise(computing)]
    return [(start, stop) for start, stop in gaps if stop > start]
