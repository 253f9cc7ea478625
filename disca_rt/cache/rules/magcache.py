"""MagCache's rule: full once a table says that the residual's size has drifted too far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...schedule import Step
from ..options import check_choice, check_int, check_number
from ..plan import Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults
from .magcache_tables import TABLES
from .nearest import nearest

Steps = tuple[frozenset[int], ...]
"""The full steps of each pass."""


@dataclass(frozen=True)
class MagCache(RuleDefaults):
    """Full in the first `retention_ratio` of the steps, then where the table's error is too large.

    g is the table: the mean ratio of the residual's size to that of the step before. From the last
    full step on, a = Π g and e = Σ |1 − a|; a step is reused while e ≤ `thresh`, at most `K` in a
    row (MagCache, arXiv 2506.09045, by the authors' code; the first step is full in any case).

    `mag_ratios` is a table of one's own, one number a step, 1 first: given, or of a calibration,
    which a `table` that is named overrules. Without it `table` is one of those published for
    HunyuanVideo 1.0 at 50 steps, "720p" or "544p". A table of another length than the sample is
    read at the nearest steps. No table is published for HunyuanVideo 1.5: the 1.0 one is taken
    there (choice). `mag_ratios_2` is the unconditional pass's table; without it both passes follow
    one (choice). `rounding` of the first steps: "down" as the authors, "nearest" as diffusers.
    """

    fitted_in: ClassVar[str] = "magcache"
    fitted: ClassVar[tuple[str, ...]] = ("mag_ratios", "mag_ratios_2")
    fitted_unless: ClassVar[tuple[str, ...]] = ("table", "mag_ratios")
    thresh: float = 0.24
    K: int = 6
    retention_ratio: float = 0.2
    table: Literal["720p", "544p", "own"] = "720p"
    mag_ratios: tuple[float, ...] | None = None
    mag_ratios_2: tuple[float, ...] | None = None
    rounding: Literal["down", "nearest"] = "down"

    @property
    def probes(self) -> tuple[Probe, ...]:
        """None: the table says it all."""
        return ()

    def __post_init__(self) -> None:
        check_number("thresh", self.thresh, 0)
        check_int("K", self.K, 0)
        check_number("retention_ratio", self.retention_ratio, 0, 1)
        check_choice("table", self.table, (*TABLES, "own"))
        check_choice("rounding", self.rounding, ("down", "nearest"))
        if self.table == "own" and not self.mag_ratios:
            raise ValueError("table own needs mag_ratios; give them, or name 720p or 544p")
        for name in ("mag_ratios", "mag_ratios_2"):
            for ratio in getattr(self, name) or ():
                check_number(f"each of {name}", ratio, 0)

    def start(self, setting: Setting) -> Steps:
        table = self.mag_ratios or TABLES[self.table]
        tables = (table, self.mag_ratios_2 or table)[: setting.passes]
        return tuple(self.full_steps(each, len(setting.steps)) for each in tables)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Steps) -> StepPlan:
        return setting.by_pass([step.index in each for each in memory])

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Steps
    ) -> Steps:
        return memory

    def full_steps(self, table: Sequence[float], steps: int) -> frozenset[int]:
        """The full ones of so many steps by `table`."""
        first = int(self.retention_ratio * steps + 0.5 * (self.rounding == "nearest"))
        full, ratio, error, skipped = set(), 1.0, 0.0, 0
        for index, change in enumerate(nearest(table, steps)):
            if index >= max(first, 1):
                ratio *= change
                error += abs(1 - ratio)
                skipped += 1
                if error <= self.thresh and skipped <= self.K:
                    continue
            full.add(index)
            ratio, error, skipped = 1.0, 0.0, 0
        return frozenset(full)
