"""The timeline as a page draws it: lanes of spans, with names and colours said once.

Steps, blocks and ops reach from the first to the last piece that ran in them, so that on a GPU they
stand above their kernels and not above the launches.
"""

from dataclasses import dataclass, field
from typing import Any

from .account import Account
from .classes import ATTENTION, CLASS_OF_OP
from .colours import OF_KINDS, colour
from .timeline import Timeline

BLOCK_COLOURS = "#475569", "#7c8ba1"  # in turn


@dataclass
class _Numbers:
    """Strings by the number that stands for them."""

    strings: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, string: str) -> int:
        if string not in self.numbers:
            self.numbers[string] = len(self.strings)
            self.strings.append(string)
        return self.numbers[string]


def lanes(timeline: Timeline, account: Account) -> dict[str, Any]:
    """JSON for `timeline.js`; spans are [start, length, name, colour], µs from the first step."""
    origin = account.windows[0].start_us if account.windows else 0.0
    names, colours = _Numbers(), _Numbers()

    def span(start: float, end: float, name: str, own: str) -> list[float]:
        return [round(start - origin, 1), round(end - start, 1), names(name), colours(own)]

    steps = [
        span(each.start_us, each.end_us, f"step {each.index} {each.kind}", OF_KINDS[each.kind])
        for each in account.windows
    ]
    kernels = [
        span(each.piece.start_us, each.piece.end_us, each.piece.name, colour(each.class_name))
        for each in account.shares
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
        "names": names.strings,
        "colours": colours.strings,
        "end": round(end - origin, 1),
    }


def _extents(account: Account) -> dict[int, tuple[float, float]]:
    """By range: from its first piece to its last."""
    extents: dict[int, tuple[float, float]] = {}
    for share in account.shares:
        start, end = share.piece.start_us, share.piece.end_us
        for index in share.piece.ranges:
            first, last = extents.get(index, (start, end))
            extents[index] = min(first, start), max(last, end)
    return extents


def _block_colour(turn: int, timeline: Timeline, index: int) -> str:
    return BLOCK_COLOURS[turn % 2]


def _op_colour(turn: int, timeline: Timeline, index: int) -> str:
    name = timeline.ranges[index].name
    return colour(ATTENTION if name == ATTENTION else CLASS_OF_OP.get(name, name))
