"""The search: measured drifts, the best list by them, then steps to better ones next to it.

All that is measured is a line of a record, so that an interrupted search goes on, and the same
search twice ends with the same list. Knows subjects by their protocol.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..cache.policies import with_step_list
from ..cache_judge.forecast import Forecast, total
from ..cache_judge.judging import Judging
from ..cache_judge.record import Record
from ..cache_judge.subject import UNCACHED, Subject
from ..cache_judge.summary import NEAREST
from .lists import best_list, neighbours

QUIET = 15.0  # seconds, after which it is told where the search is

Told = Callable[[str], None]


class Found(NamedTuple):
    """A policy, its cost in full steps by FLOPs, and the geometric mean of its relative L2."""

    policy: str
    step_list: tuple[int, ...]
    full_steps: float
    error: float


class Search:
    """Searches on one subject for lists whose samples cost at most `budget` full steps."""

    def __init__(self, subject: Subject, record: Record, budget: float, tell: Told) -> None:
        if math.isnan(budget):
            raise ValueError("budget must be a number of full steps, got nan")
        self._subject, self._record, self._budget, self._tell = subject, record, budget, tell
        self._judging = Judging(subject, record, self._say)
        self._steps, self._told = subject.steps, time.monotonic()

    def run(self, stand_ins: Sequence[str], most: int) -> list[Found]:
        """The best policy of each stand-in, the nearest first; `most` lists of each are sampled.

        `stand_ins` are policies that follow a step list, such as "taylor:order=1".
        """
        counts = self._counts(stand_ins)
        prompts = len(self._subject.prompts)
        self._tell(f"{self._subject.title}: {prompts} prompts without a cache")
        self._judging.sample(UNCACHED)
        found = [self._best(each, full, most) for each, full in counts.items()]
        return sorted(found, key=lambda one: (one.error, one.policy))

    def forecast(self, stand_ins: Sequence[str], most: int) -> Forecast:
        """The work of the whole search, nothing of it done yet; ValueError for a small budget."""
        prompts, runs = len(self._subject.prompts), [(UNCACHED, len(self._subject.prompts))]
        for each, full in self._counts(stand_ins).items():
            runs += ((with_step_list(each, range(j + 1)), prompts) for j in range(self._steps - 1))
            runs.append((with_step_list(each, range(full)), prompts * most))
        return total(self._subject, runs)

    def _counts(self, stand_ins: Sequence[str]) -> dict[str, int]:
        """The most full steps of each stand-in, which are checked."""
        for each in stand_ins:
            self._subject.check(with_step_list(each, range(1)))
        return {each: self._full_steps(each) for each in stand_ins}

    def _full_steps(self, stand_in: str) -> int:
        """The most full steps within the budget; ValueError where not even one is."""
        for full in range(self._steps, 0, -1):
            if self._cost(with_step_list(stand_in, range(full))) <= self._budget + 1e-9:
                return full
        least = self._cost(with_step_list(stand_in, range(1)))
        raise ValueError(
            f"budget {self._budget:g} is too small for {stand_in}: one full step and predicted "
            f"ones cost {least:.2f} full steps"
        )

    def _cost(self, policy: str) -> float:
        """The cost in full steps, by FLOPs of the plans."""
        plans = self._subject.known_plans(policy)
        return self._subject.flops(policy, plans, 0) / self._subject.step_flops(0)

    def _say(self, text: str) -> None:
        """Tells `text` where nothing of its kind was told for a while."""
        if time.monotonic() > self._told + QUIET:
            self._told = time.monotonic()
            self._tell(text)

    def _best(self, stand_in: str, full: int, most: int) -> Found:
        self._tell(f"{stand_in}: drifts of {self._steps} steps")
        drifts = [self._drift(stand_in, j) for j in range(self._steps)]
        best = self._measured(stand_in, best_list(drifts, full))
        self._tell(f"{stand_in}: {full} full steps, by drifts {_text(best)}")
        tried, is_better = {best.step_list}, True
        while is_better:
            is_better = False
            for near in neighbours(best.step_list, self._steps):
                if near in tried or len(tried) >= most:
                    continue
                tried.add(near)
                self._say(f"{stand_in}: list {len(tried)} of at most {most}")
                other = self._measured(stand_in, near)
                if other.error < best.error:
                    best, is_better = other, True
                    self._tell(f"{stand_in}: {_text(best)} after {len(tried)} lists")
                    break
        return best

    def _measured(self, stand_in: str, step_list: tuple[int, ...]) -> Found:
        policy = with_step_list(stand_in, step_list)
        self._subject.check(policy)
        self._judging.sample(policy)
        lines = self._record.of("clip", self._subject.name, policy)
        logs = [math.log(max(line["l2"], NEAREST)) for line in lines]
        error = math.exp(statistics.fmean(logs))
        return Found(policy, step_list, self._cost(policy), error)

    def _drift(self, stand_in: str, last: int) -> list[float]:
        """The mean errors at all steps of samples that are full up to step `last` alone."""
        policy, name = with_step_list(stand_in, range(last + 1)), self._subject.name
        if last == self._steps - 1:  # nothing is predicted
            return [0.0] * (self._steps + 1)
        lines = self._record.of("drift", name, policy)
        left = len(self._subject.prompts) - len(lines)
        for number, values in self._subject.drifts(policy, len(lines), left):
            line = {"kind": "drift", "subject": name, "policy": policy}
            self._record.add({**line, "number": number, "values": values})
            of_all = f"step {last + 1} of {self._steps - 1}, prompt {number + 1}"
            self._say(f"{stand_in}: drifts after {of_all} of {len(self._subject.prompts)}")
        lines = self._record.of("drift", name, policy)
        values = zip(*(line["values"] for line in lines), strict=True)
        return [statistics.fmean(of_step) for of_step in values]


def _text(found: Found) -> str:
    return f"{','.join(map(str, found.step_list))}: L2 {found.error:.4f}"
