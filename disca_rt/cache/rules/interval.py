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
        after = step.index - (self.warmup_steps - 1)
        return setting.full if after <= 0 or after % self.interval == 0 else setting.predicted
