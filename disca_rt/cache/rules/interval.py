"""The rule of a fixed interval, R(N, E): some first steps full, then every N-th one."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Interval(Memoryless):
    """Full in the first `warmup_steps`, and `interval` steps after the last full one.

    R(N, E) with N = `interval` and E = `warmup_steps`; the first step is full in any case.
    """

    interval: int
    warmup_steps: int = 1

    def __post_init__(self) -> None:
        for name in ("interval", "warmup_steps"):
            check_int(name, getattr(self, name), 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        is_between = steps_since_full(step.index, self.interval, self.warmup_steps)
        return setting.predicted if is_between else setting.full


def steps_since_full(index: int, interval: int, warmup_steps: int) -> int:
    """The distance of a step of R(`interval`, `warmup_steps`) from the last full one; 0: full."""
    return max(0, index - (warmup_steps - 1)) % interval
