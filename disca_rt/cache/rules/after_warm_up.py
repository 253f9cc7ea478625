"""The rule of stand-ins that need nothing kept: some first steps full, all others by them."""

from dataclasses import dataclass

from ...schedule import Step
from ..labels import SPARSE
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class AfterWarmUp(Memoryless):
    """Full in the first `warmup_steps` and never again."""

    warmup_steps: int = 1

    def __post_init__(self) -> None:
        check_int("warmup_steps", self.warmup_steps, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        if step.index < self.warmup_steps:
            return setting.full
        return setting.predicted._replace(label=SPARSE)
