"""Summaries of a record: one row for each subject and policy, with intervals over the prompts.

Distances to the uncached run have a heavy tail (a clip in ten, in which an object goes another
way), so that their geometric mean, median and share of such clips stand beside each other.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..cache.policies import FAMILIES, read_policy
from ..tiny.statistics import ConfidenceInterval, mean_interval
from .record import Line, Record
from .subject import UNCACHED

FAR = 0.1  # relative L2 beyond which something else is seen
NEAREST = 1e-6  # relative L2 that logarithms begin at
PLAIN = "reuse"  # the method that all are compared with at equal cost


class Summary(NamedTuple):
    """The means of one policy on one subject.

    `full_steps` are the full steps that cost as many FLOPs; `speedup` and `ratio` are by FLOPs, and
    measured over that. `against_reuse` is the geometric mean of the L2 over that of plain reuse at
    the same cost, prompt by prompt: below 1 is nearer. None where it was not timed, scored or
    decoded.
    """

    subject: str
    policy: str
    family: str
    full_steps: float
    speedup: float
    ratio: float | None
    state_bytes: int | None
    psnr: ConfidenceInterval | None
    ssim: ConfidenceInterval | None
    l2_median: float
    l2_geometric: float
    l2_mean: float
    far: float
    scores: dict[str, ConfidenceInterval]
    against_reuse: ConfidenceInterval | None

    @property
    def method(self) -> str:
        """The policy's name, without options."""
        return "+".join(part.name for part in read_policy(self.policy))

    @property
    def nearness(self) -> float:
        """The mean PSNR; where nothing was decoded, the latents' signal over the error, in dB."""
        return -20 * math.log10(self.l2_geometric) if self.psnr is None else self.psnr.mean


def summaries(record: Record, subject: str) -> list[Summary]:
    """A row for each policy whose prompts are all judged, in the order of the record."""
    clips = _by_policy(record.of("clip", subject))
    prompts = len(clips.get(UNCACHED, ()))
    costs = {line["policy"]: line for line in record.of("cost", subject)}
    complete = {policy: lines for policy, lines in clips.items() if len(lines) == prompts > 0}
    reuse = _Reuse(complete)
    return [
        _summary(subject, policy, lines, complete[UNCACHED], costs.get(policy), reuse)
        for policy, lines in complete.items()
    ]


def frontier(rows: Sequence[Summary]) -> list[Summary]:
    """The rows that no cheaper one is as near as, from the cheapest on."""
    best: list[Summary] = []
    for row in sorted(rows, key=lambda row: (-row.speedup, -row.nearness)):
        if not best or row.nearness > best[-1].nearness:
            best.append(row)
    return best


def family_of(policy: str) -> str:
    """The family of a policy's rule."""
    name = read_policy(policy)[0].name
    return next(family for family, rows in FAMILIES.items() if name in rows)


def _summary(
    subject: str,
    policy: str,
    lines: Sequence[Line],
    uncached: Sequence[Line],
    cost: Line | None,
    reuse: "_Reuse",
) -> Summary:
    l2 = [_l2(line) for line in lines]
    full_steps = statistics.fmean(line["full_steps"] for line in lines)
    speedup = statistics.fmean(line["full_steps"] for line in uncached) / full_steps
    return Summary(
        subject=subject,
        policy=policy,
        family=family_of(policy),
        full_steps=full_steps,
        speedup=speedup,
        ratio=None if cost is None else cost["speedup"] / speedup,
        state_bytes=None if cost is None else cost["state_bytes"],
        psnr=_interval(lines, "psnr"),
        ssim=_interval(lines, "ssim"),
        l2_median=statistics.median(l2),
        l2_geometric=math.exp(statistics.fmean(map(math.log, l2))),
        l2_mean=statistics.fmean(l2),
        far=statistics.fmean(each > FAR for each in l2),
        scores={
            name: mean_interval([line[name] for line in lines])
            for name in ("semantic", "quality", "correct")
            if name in lines[0]
        },
        against_reuse=reuse.compared(policy, lines),
    )


class _Reuse:
    """Plain reuse at any cost between those that were judged, prompt by prompt."""

    def __init__(self, clips: Mapping[str, Sequence[Line]]) -> None:
        runs = [
            (statistics.fmean(line["full_steps"] for line in lines), lines)
            for policy, lines in clips.items()
            if policy.partition(":")[0] == PLAIN and "+" not in policy
        ]
        self._runs = sorted(runs, key=lambda run: run[0])

    def compared(self, policy: str, lines: Sequence[Line]) -> ConfidenceInterval | None:
        """The geometric mean of L2 over reuse's; None outside of what was judged."""
        if policy == UNCACHED or policy.partition(":")[0] == PLAIN:
            return None
        logs = [
            math.log(_l2(line)) - other
            for number, line in enumerate(lines)
            if (other := self._log_l2(number, line["full_steps"])) is not None
        ]
        if len(logs) < len(lines):
            return None
        return ConfidenceInterval(*map(math.exp, mean_interval(logs)))

    def _log_l2(self, number: int, cost: float) -> float | None:
        """The logarithm of the L2 of prompt `number` at a cost, between the runs beside it."""
        costs = [each for each, _ in self._runs]
        after = bisect_left(costs, cost - 1e-9)
        if after == len(costs) or (after == 0 and cost < costs[0] - 1e-9):
            return None
        values = [math.log(_l2(lines[number])) for _, lines in self._runs]
        if after == 0:
            return values[0]
        share = math.log(cost / costs[after - 1]) / math.log(costs[after] / costs[after - 1])
        return values[after - 1] + share * (values[after] - values[after - 1])


def _by_policy(lines: Sequence[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["policy"], []).append(line)
    return found


def _interval(lines: Sequence[Line], name: str) -> ConfidenceInterval | None:
    """The mean of what was measured of every clip; None where it was not."""
    values = [line[name] for line in lines]
    return None if None in values else mean_interval(values)


def _l2(line: Line) -> float:
    """A clip's relative L2, within what logarithms and means can take."""
    return min(max(line["l2"], NEAREST), 1 / NEAREST)
