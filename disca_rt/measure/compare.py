"""Comparison of two runs of the same benchmarks: slower by more than the noise of both, or not.

The noise is that of the samples, by the rank test (Mann and Whitney 1947), and of the machine, by
how much its matrix product has changed. Knows records, not what they measure.
"""

from collections.abc import Sequence
from itertools import accumulate, count
from math import comb, inf, sqrt
from statistics import NormalDist, median
from typing import NamedTuple

from ..markdown import table_lines
from .ceilings import COPY, MATMUL
from .record import Record

TOLERANCE = 0.02  # of the ratio, beyond all noise: less is not worth a failure
LEVEL = 0.99
OUTSIDE = (1 - LEVEL) / 2  # at each end of an interval
# Samples of each run: in 1 of the 252 orders of 5 and 5 all of one run are before all of the other,
# in 1 of 70 of 4 and 4, which is no rare event.
NEEDED = next(n for n in count(1) if comb(2 * n, n) * OUTSIDE >= 1)
MOST_PAIRS = 10_000  # of samples; with more the normal distribution is near enough


class RatioInterval(NamedTuple):
    """Ratio of now to before, and its 99 % interval: from 0 to inf for too few samples."""

    ratio: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        return self.high < inf


class Change(NamedTuple):
    """Change of one contender between two runs.

    `wall` and `cpu` are ratios of its wall and CPU times; `drift` is by what share the machine's
    own matrix product became slower.
    """

    benchmark: str
    contender: str
    before_s: float
    now_s: float
    wall: RatioInterval
    cpu: RatioInterval
    drift: float
    is_cpu: bool

    @property
    def allowed(self) -> float:
        """Largest ratio that counts as noise."""
        return 1 + TOLERANCE + abs(self.drift)

    @property
    def is_slower(self) -> bool:
        """True where it takes longer beyond noise; a CPU has neighbours, so there by both times."""
        slower = self.wall.low > self.allowed
        return slower and (not self.is_cpu or self.cpu.low > self.allowed)

    @property
    def is_faster(self) -> bool:
        return self.wall.high < 2 - self.allowed

    @property
    def verdict(self) -> str:
        if not self.wall.is_known:
            return "none"
        if self.is_slower:
            return "**slower**"
        return "faster" if self.is_faster else "within noise"


def compare(now: Sequence[Record], before: Sequence[Record]) -> list[Change]:
    """Changes of the contenders that both runs have, on the same device; ValueError without any."""
    earlier = {record.identity: record for record in before}
    pairs = [(record, earlier[record.identity]) for record in now if record.identity in earlier]
    pairs = [pair for pair in pairs if pair[0].benchmark not in (MATMUL, COPY)]
    if not pairs:
        raise ValueError(
            f"the baseline has none of what was measured, {_described(now)}; it has "
            f"{_described(before)}"
        )
    return [_change(*pair, drift=_drift(now, before)) for pair in pairs]


def missing(now: Sequence[Record], before: Sequence[Record]) -> list[str]:
    """Names of contenders that only the earlier run has, in the comparisons measured now."""
    comparisons, known = {record.comparison for record in now}, {r.identity for r in now}
    return [
        f"{record.benchmark}: {record.contender}"
        for record in before
        if record.comparison in comparisons and record.identity not in known
    ]


def markdown(changes: Sequence[Change]) -> str:
    """Page with a table of the changes, and notes on drift and on too few samples."""
    header = "benchmark", "contender", "before", "now", "ratio", "99 % interval", "verdict"
    rows = [
        (
            change.benchmark,
            change.contender,
            f"{change.before_s * 1e3:,.2f} ms",
            f"{change.now_s * 1e3:,.2f} ms",
            f"{change.wall.ratio:.3f}",
            f"{change.wall.low:.3f} – {change.wall.high:.3f}" if change.wall.is_known else "none",
            change.verdict,
        )
        for change in changes
    ]
    notes = [f"Matrix products took {1 + changes[0].drift:.3f} times what they did before."]
    if unknown := sum(not change.wall.is_known for change in changes):
        notes.append(
            f"No verdict on {unknown} of {len(changes)}, with too few samples: a 99 % interval "
            f"needs {NEEDED} of each run (--samples {NEEDED})."
        )
    return "\n".join([*table_lines(header, rows), "", *notes]) + "\n"


def _described(records: Sequence[Record]) -> str:
    said = {f"{r.benchmark} on {r.device}" for r in records if r.benchmark not in (MATMUL, COPY)}
    return "; ".join(sorted(said)) or "nothing"


def _drift(now: Sequence[Record], before: Sequence[Record]) -> float:
    products, earlier = (
        {r.identity: r for r in run if r.benchmark == MATMUL} for run in (now, before)
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


def ratio_interval(now: Sequence[float], before: Sequence[float]) -> RatioInterval:
    """Median of the ratios of all pairs of one run's time to the other's, and its interval.

    The interval leaves out as many ratios at each end as the rank test allows (Hodges and Lehmann
    1963).
    """
    ratios = sorted(one / other for one in now for other in before)
    cut = _outside(len(now), len(before))
    ends = (ratios[cut - 1], ratios[-cut]) if cut else (0.0, inf)
    return RatioInterval(median(ratios), *ends)


def _outside(n: int, m: int) -> int:
    """Number of ratios of n and m samples that an interval leaves out at each end.

    More than that are on one side of the true ratio in only a share OUTSIDE of all orders.
    """
    pairs = n * m
    if pairs > MOST_PAIRS:
        spread = sqrt(pairs * (n + m + 1) / 12)
        return int(pairs / 2 + 0.5 + NormalDist().inv_cdf(OUTSIDE) * spread)
    return sum(orders <= OUTSIDE * comb(n + m, n) for orders in accumulate(_orders(n, m)))


def _orders(n: int, m: int) -> list[int]:
    """Numbers of orders of n and m values with 0, 1, ... pairs in which one of the m is smaller.

    They are the coefficients of the product of (1 - x^(m + i)) / (1 - x^i) over i up to n.
    """
    orders = [1] + [0] * (n * m // 2)
    for i in range(1, n + 1):
        for pairs in reversed(range(m + i, len(orders))):
            orders[pairs] -= orders[pairs - m - i]
        for pairs in range(i, len(orders)):
            orders[pairs] += orders[pairs - i]
    return orders
