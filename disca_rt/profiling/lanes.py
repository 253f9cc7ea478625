"""Lanes of a timeline as the page draws them: spans, with names and colours said once.

Steps, blocks and ops reach from the first to the last run in them, so that on a GPU they stand
above their kernels and not above the launches.
"""

from typing import Any

from .account import Account
from .classes import ATTENTION, CLASS_OF_OP
from .colours import colour
from .timeline import TraceTimeline

BLOCK_COLOURS = "#475569", "#7c8ba1"  # in turn


def lanes(timeline: TraceTimeline, account: Account) -> dict[str, Any]:
    """JSON for `timeline.js`: spans are [start, length, name, colour], µs from the first step."""
    origin = account.windows[0].start_us if account.windows else 0.0
    names: dict[str, int] = {}  # by their numbers in spans
    colours: dict[str, int] = {}

    def number(numbers: dict[str, int], text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    def span(start: float, end: float, name: str, own: str) -> list[float]:
        texts = number(names, name), number(colours, own)
        return [round(start - origin, 1), round(end - start, 1), *texts]

    steps = [
        span(each.start_us, each.end_us, each.name, colour(each.kind)) for each in account.windows
    ]
    kernels = [
        span(each.run.start_us, each.run.end_us, each.run.name, colour(each.class_name))
        for each in account.entries
    ]
    extents = _extents(account)
    lane_of = {"step": steps, "kernel" if timeline.is_on_gpu else "operator": kernels}
    for level, own in (("block", _block_colour), ("op", _op_colour)):
        chosen = [index for index in extents if timeline.ranges[index].level == level]
        lane_of[level] = [
            span(*extents[index], timeline.ranges[index].name, own(turn, timeline, index))
            for turn, index in enumerate(sorted(chosen))
        ]
    order = "step", "block", "op", "kernel", "operator"
    shown = [{"name": name, "spans": lane_of[name]} for name in order if name in lane_of]
    end = max((window.end_us for window in account.windows), default=origin)
    return {
        "lanes": shown,
        "names": list(names),
        "colours": list(colours),
        "end": round(end - origin, 1),
    }


def _extents(account: Account) -> dict[int, tuple[float, float]]:
    """Start of the first run and end of the last one in each range, by the range's index."""
    extents: dict[int, tuple[float, float]] = {}
    for entry in account.entries:
        start, end = entry.run.start_us, entry.run.end_us
        for index in entry.run.ranges:
            first, last = extents.get(index, (start, end))
            extents[index] = min(first, start), max(last, end)
    return extents


def _block_colour(turn: int, timeline: TraceTimeline, index: int) -> str:
    return BLOCK_COLOURS[turn % 2]


def _op_colour(turn: int, timeline: TraceTimeline, index: int) -> str:
    name = timeline.ranges[index].name
    return colour(ATTENTION if name == ATTENTION else CLASS_OF_OP.get(name, name))
