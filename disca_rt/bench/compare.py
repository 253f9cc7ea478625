"""Two runs of the same benchmarks: what became slower by more than the noise of both.

The noise is that of the samples, by the bootstrap (Efron 1979), and of the machine, by how much its
matrix product has changed. Knows records, not what they measure.
"""

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from .ceilings import COPY, MATMUL
from .harness import percentile
from .record import Record

TOLERANCE = 0.02  # of the ratio, over all noise: less is not worth a failure
RESAMPLES, SEED = 1_000, 0
LEVEL = 0.99


class Interval(NamedTuple):
    """A ratio of medians, now over before, and the ends of its 99 % interval."""

    ratio: float
    low: float
    high: float


class Change(NamedTuple):
    """Of one contender; `cpu` of its CPU time, `drift` of the machine's matrix product."""

    benchmark: str
    contender: str
    before_s: float
    now_s: float
    wall: Interval
    cpu: Interval
    drift: float
    is_cpu: bool

    @property
    def allowed(self) -> float:
        return 1 + TOLERANCE + abs(self.drift)

    @property
    def is_slower(self) -> bool:
        """On a CPU in both times: a busy neighbour takes only of the wall's."""
        slower = self.wall.low > self.allowed
        return slower and (not self.is_cpu or self.cpu.low > self.allowed)

    @property
    def is_faster(self) -> bool:
        return self.wall.high < 2 - self.allowed

    @property
    def verdict(self) -> str:
        if self.is_slower:
            return "**slower**"
        return "faster" if self.is_faster else "within noise"


def compare(now: Sequence[Record], before: Sequence[Record]) -> list[Change]:
    """Every contender that both runs have, on the same device; ValueError where there is none."""
    earlier = {_identity(record): record for record in before}
    pairs = [(record, earlier[_identity(record)]) for record in now if _identity(record) in earlier]
    pairs = [pair for pair in pairs if pair[0].benchmark not in (MATMUL, COPY)]
    if not pairs:
        raise ValueError(
            f"the baseline has none of what was measured, {_described(now)}; it has "
            f"{_described(before)}"
        )
    return [_change(*pair, drift=_drift(now, before)) for pair in pairs]


def missing(now: Sequence[Record], before: Sequence[Record]) -> list[str]:
    """Contenders of the benchmarks measured now that only the earlier run has."""
    benchmarks, known = {record.key for record in now}, {_identity(record) for record in now}
    return [
        f"{record.benchmark}: {record.contender}"
        for record in before
        if record.key in benchmarks and _identity(record) not in known
    ]


def markdown(changes: Sequence[Change]) -> str:
    header = "benchmark", "contender", "before", "now", "ratio", "99 % interval", "verdict"
    rows = [
        (
            change.benchmark,
            change.contender,
            f"{change.before_s * 1e3:,.2f} ms",
            f"{change.now_s * 1e3:,.2f} ms",
            f"{change.wall.ratio:.3f}",
            f"{change.wall.low:.3f} – {change.wall.high:.3f}",
            change.verdict,
        )
        for change in changes
    ]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    drift = changes[0].drift
    note = f"Matrix products took {1 + drift:.3f} times what they did before."
    return "\n".join([*lines, "", note]) + "\n"


def _identity(record: Record) -> tuple:
    """Two lines with the same one are the same work on the same kind of machine."""
    return *record.key, record.contender, record.weights, str(sorted(record.shape.items()))


def _described(records: Sequence[Record]) -> str:
    said = {f"{r.benchmark} on {r.device}" for r in records if r.benchmark not in (MATMUL, COPY)}
    return "; ".join(sorted(said)) or "nothing"


def _drift(now: Sequence[Record], before: Sequence[Record]) -> float:
    products, earlier = (
        {_identity(r): r for r in run if r.benchmark == MATMUL} for run in (now, before)
    )
    shared = [products[key].median_s / earlier[key].median_s for key in products if key in earlier]
    return shared[-1] - 1 if shared else 0.0


def _change(now: Record, before: Record, drift: float) -> Change:
    return Change(
        benchmark=now.benchmark,
        contender=now.contender,
        before_s=before.median_s,
        now_s=now.median_s,
        wall=ratio_interval(now.seconds, before.seconds),
        cpu=ratio_interval(now.cpu_seconds, before.cpu_seconds),
        drift=drift,
        is_cpu=now.device.startswith("CPU"),
    )


def ratio_interval(now: Sequence[float], before: Sequence[float]) -> Interval:
    """Of the medians of two runs, each resampled by itself."""
    drawn = random.Random(SEED)
    ratios = [
        median(drawn.choices(now, k=len(now))) / median(drawn.choices(before, k=len(before)))
        for _ in range(RESAMPLES)
    ]
    outside = (1 - LEVEL) / 2
    ends = percentile(ratios, outside), percentile(ratios, 1 - outside)
    return Interval(median(now) / median(before), *ends)
