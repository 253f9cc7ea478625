"""Table of a profile by step kind and class: time, share, rate and nearness to the ceiling.

A class with matrix products has a rate in TFLOP/s, another one in GB/s of the bytes that it has to
move at least. A kind's rows add up to its steps' wall time: the gap is the time without any run.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..measure.ceilings import Ceilings
from ..units import rate_text
from .account import Account, Entry
from .classes import ATTENTION, COPY, GAP, GEMM, OTHER
from .work import Work

ALL = "all"
UNRATED = COPY, OTHER  # unlike calls, of some of which the bytes are not known


@dataclass(frozen=True)
class Row:
    """Totals of one class in all steps of one kind, or in all runs of a stage.

    `time_us` is exposed time; `busy_us` is the time of all runs, also of those at once, and gives
    the rates. `share` is that of the kind's wall time.
    """

    kind: str
    class_name: str
    calls: int
    steps: int
    time_us: float
    busy_us: float
    share: float
    work: Work
    is_stage: bool = False

    @property
    def flops_per_s(self) -> float | None:
        return self.work.flops / self.busy_us * 1e6 if self.work.flops and self.busy_us else None

    @property
    def bytes_per_s(self) -> float | None:
        moved = self.work.minimum_bytes
        return moved / self.busy_us * 1e6 if moved and self.busy_us else None

    def fraction(self, ceilings: Ceilings) -> float | None:
        """Time that the work would take at the ceilings, divided by the time that it took.

        Bytes or FLOPs, whichever would take longer; None where neither is known.
        """
        rates = ((self.flops_per_s, ceilings.flops_per_s), (self.bytes_per_s, ceilings.bytes_per_s))
        return max((rate / most for rate, most in rates if rate is not None), default=None)


class Kernel(NamedTuple):
    """Totals of one kernel, or on a CPU of one operator, in all steps of one kind or a stage."""

    kind: str
    class_name: str
    name: str
    calls: int
    time_us: float
    is_stage: bool = False


def rows(account: Account) -> list[Row]:
    """Rows of each kind of step: its classes, the longest first, then the gap, then all of it."""
    made: list[Row] = []
    for kind in dict.fromkeys(window.kind for window in account.windows):
        windows = [window for window in account.windows if window.kind == kind]
        wall = sum(window.time_us for window in windows)
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in account.entries:
            if entry.kind == kind:
                groups[entry.class_name].append(entry)
        classes = [_row(kind, name, group, len(windows), wall) for name, group in groups.items()]
        classes.sort(key=lambda row: -row.time_us)
        of_kind = [*classes, *_rest(kind, classes, len(windows), wall)]
        is_stage = windows[0].index is None
        made += [replace(row, is_stage=is_stage) for row in of_kind]
    return made


def stage_line(rows: Sequence[Row]) -> str:
    """Sentence on how the time of a whole sample divides among its stages and kinds of steps."""
    sums = [row for row in rows if row.class_name == ALL]
    total = sum(row.time_us for row in sums)
    parts = []
    for row in sums:
        name = row.kind if row.is_stage else f"{row.steps} {row.kind} step{'s' * (row.steps != 1)}"
        parts.append(f"{name} {row.time_us / total:.1%}")
    return f"under the profiler {total / 1e6:,.2f} s: {', '.join(parts)}"


def outside_line(rows: Sequence[Row]) -> str:
    """Sentence on the share of each kind of step that is neither a product nor attention."""
    inside: dict[str, float] = {}
    for row in rows:
        if not row.is_stage:
            share = row.share if row.class_name in (GEMM, ATTENTION) else 0.0
            inside[row.kind] = inside.get(row.kind, 0.0) + share
    said = (f"{1 - share:.1%} of a {kind} step" for kind, share in inside.items())
    return f"outside GEMM and attention: {', '.join(said)}"


def _row(kind: str, name: str, group: Sequence[Entry], steps: int, wall: float) -> Row:
    time = sum(entry.exposed_us for entry in group)
    busy = sum(entry.run.time_us for entry in group)
    work = Work() if name in UNRATED else sum((entry.work for entry in group), Work())
    return Row(kind, name, len(group), steps, time, busy, time / wall if wall else 0.0, work)


def _rest(kind: str, classes: Sequence[Row], steps: int, wall: float) -> list[Row]:
    """Rows of the gap and of the sum; without bytes, whose sum over unlike ops says nothing."""
    gap = max(0.0, wall - sum(row.time_us for row in classes))
    flops = Work(flops=sum(row.work.flops for row in classes))
    share = gap / wall if wall else 0.0
    return [
        Row(kind, GAP, 0, steps, gap, gap, share, Work()),
        Row(kind, ALL, sum(row.calls for row in classes), steps, wall, wall, 1.0, flops),
    ]


def kernels(account: Account) -> list[Kernel]:
    """Kernels of each kind of step, the longest in total first."""
    stages = {window.kind for window in account.windows if window.index is None}
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for entry in account.entries:
        groups[entry.kind, entry.class_name, entry.run.name].append(entry.run.time_us)
    made = [
        Kernel(*key, len(times), sum(times), is_stage=key[0] in stages)
        for key, times in groups.items()
    ]
    return sorted(made, key=lambda kernel: -kernel.time_us)


HEADER = "step kind", "class", "calls", "ms", "ms/step", "share", "rate", "of ceiling"


def cells(row: Row, ceilings: Ceilings) -> tuple[str, ...]:
    """Texts of a row, one for each column of `HEADER`."""
    fraction = row.fraction(ceilings)
    return (
        row.kind,
        row.class_name,
        f"{row.calls:,}" if row.calls else "",
        f"{row.time_us / 1e3:,.2f}",
        f"{row.time_us / 1e3 / row.steps:,.3f}",
        f"{row.share:.1%}",
        _rate(row),
        "" if fraction is None else f"{fraction:.1%}",
    )


def _rate(row: Row) -> str:
    if row.flops_per_s is not None:
        return rate_text(row.flops_per_s, "FLOP/s")
    return "" if row.bytes_per_s is None else rate_text(row.bytes_per_s, "B/s")


def record(row: Row, ceilings: Ceilings) -> dict[str, Any]:
    """Fields of a row for a line of JSON; times in seconds."""
    return {
        "kind": row.kind,
        "level": "stage" if row.is_stage else "step",
        "class": row.class_name,
        "calls": row.calls,
        "steps_of_kind": row.steps,
        "time_s": row.time_us / 1e6,
        "busy_s": row.busy_us / 1e6,
        "share": row.share,
        **row.work._asdict(),
        "tflops_per_s": None if row.flops_per_s is None else row.flops_per_s / 1e12,
        "gb_per_s": None if row.bytes_per_s is None else row.bytes_per_s / 1e9,
        "fraction_of_ceiling": row.fraction(ceilings),
        "ceilings": ceilings._asdict(),
    }
