"""The rule of the official HunyuanVideo 1.5 caches: every so many steps, in the middle alone."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Middle(Memoryless):
    """Full but between `cache_start_step` and `cache_end_step`, where every interval-th step is.

    The numbers are counted from the first step, not scaled: as in the official code, which was made
    for 50 steps, a sample of up to `cache_start_step` + 1 steps is full throughout. That code
    refuses step-distilled models; here they are sampled with the steps as they are counted. Its
    taylorcache keeps nothing of the first step, which differs below a `cache_start_step` of 3.
    """

    cache_start_step: int = 11
    cache_end_step: int = 45
    cache_step_interval: int = 4

    def __post_init__(self) -> None:
        check_int("cache_start_step", self.cache_start_step, 0)
        check_int("cache_end_step", self.cache_end_step, self.cache_start_step)
        check_int("cache_step_interval", self.cache_step_interval, 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        after = step.index - self.cache_start_step
        is_middle = after >= 0 and step.index < self.cache_end_step
        is_predicted = is_middle and after % self.cache_step_interval
        return setting.predicted if is_predicted else setting.full
