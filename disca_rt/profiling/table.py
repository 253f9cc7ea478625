"""The table: by step kind and class, the time, its share, what rate it is and how near the ceiling.

A class with matrix products has a rate in TFLOP/s, another one in GB/s of the bytes that it has to
move at least. A kind's rows add up to its steps' wall time: what no piece covers is the gap.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..cache.plan import FULL, PREDICTED
from .account import Account, Share
from .ceilings import Ceilings
from .classes import COPY, GAP, OTHER
from .work import Work

KINDS = FULL, PREDICTED
ALL = "all"
UNRATED = COPY, OTHER  # unlike calls, of some of which the bytes are not known


@dataclass(frozen=True)
class Row:
    """One class in the steps of one kind, together.

    `time_us` is exposed time, `busy_us` that of all pieces, also where they run at once; rates are
    by the latter. `share` is that of the kind's wall time.
    """

    kind: str
    class_name: str
    calls: int
    steps: int
    time_us: float
    busy_us: float
    share: float
    work: Work

    @property
    def flops_per_s(self) -> float | None:
        return self.work.flops / self.busy_us * 1e6 if self.work.flops and self.busy_us else None

    @property
    def bytes_per_s(self) -> float | None:
        moved = self.work.minimum_bytes
        return moved / self.busy_us * 1e6 if moved and self.busy_us else None

    def fraction(self, ceilings: Ceilings) -> float | None:
        """The time that it would take at the ceilings over the time that it took.

        Of the two ceilings that counts under which the work takes longer.
        """
        rates = (
            (self.flops_per_s, ceilings.flops_per_s),
            (self.bytes_per_s, ceilings.bytes_per_s),
        )
        return max((rate / most for rate, most in rates if rate is not None), default=None)


class Kernel(NamedTuple):
    """All calls of one kernel, or on a CPU of one operator, in the steps of one kind."""

    kind: str
    class_name: str
    name: str
    calls: int
    time_us: float


def rows(account: Account) -> list[Row]:
    """Of each kind that there is: its classes, the longest first, the gap, and all of it."""
    made: list[Row] = []
    for kind in KINDS:
        windows = [window for window in account.windows if window.kind == kind]
        wall = sum(window.time_us for window in windows)
        groups: dict[str, list[Share]] = defaultdict(list)
        for share in account.shares:
            if share.kind == kind:
                groups[share.class_name].append(share)
        classes = [_row(kind, name, group, len(windows), wall) for name, group in groups.items()]
        classes.sort(key=lambda row: -row.time_us)
        if windows:
            made += [*classes, *_rest(kind, classes, len(windows), wall)]
    return made


def _row(kind: str, name: str, group: Sequence[Share], steps: int, wall: float) -> Row:
    time = sum(share.exposed_us for share in group)
    busy = sum(share.piece.time_us for share in group)
    work = Work() if name in UNRATED else sum((share.work for share in group), Work())
    return Row(kind, name, len(group), steps, time, busy, time / wall if wall else 0.0, work)


def _rest(kind: str, classes: Sequence[Row], steps: int, wall: float) -> list[Row]:
    """The gap, and the sum of everything; its bytes are those of unlike things, and left out."""
    gap = max(0.0, wall - sum(row.time_us for row in classes))
    flops = Work(flops=sum(row.work.flops for row in classes))
    share = gap / wall if wall else 0.0
    return [
        Row(kind, GAP, 0, steps, gap, gap, share, Work()),
        Row(kind, ALL, sum(row.calls for row in classes), steps, wall, wall, 1.0, flops),
    ]


def kernels(account: Account) -> list[Kernel]:
    """Those that took longest together first; the two kinds of step apart."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for share in account.shares:
        groups[share.kind, share.class_name, share.piece.name].append(share.piece.time_us)
    made = [Kernel(*key, len(times), sum(times)) for key, times in groups.items()]
    return sorted(made, key=lambda kernel: -kernel.time_us)


HEADER = "step kind", "class", "calls", "ms", "ms/step", "share", "rate", "of ceiling"


def cells(row: Row, ceilings: Ceilings) -> tuple[str, ...]:
    """A row under `HEADER`."""
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


def rate_text(rate: float, unit: str) -> str:
    """With G or, of FLOP/s from 10¹², T before the unit."""
    scale, prefix = (1e12, "T") if rate >= 1e12 and unit == "FLOP/s" else (1e9, "G")
    digits = 0 if rate >= 100 * scale else 1 if rate >= 10 * scale else 2
    return f"{rate / scale:,.{digits}f} {prefix}{unit}"


def record(row: Row, ceilings: Ceilings) -> dict[str, Any]:
    """A row as a line of JSON has it; times in seconds."""
    return {
        "kind": row.kind,
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
        "ceilings": asdict(ceilings),
    }
