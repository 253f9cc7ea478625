"""The rule of TaylorSeer (arXiv 2503.06923): some first steps are full, then one an interval.

A count that no interval gives comes of a full last step: of 50 R(3, 3) has 18 and 19, R(6, 3) 10
and 11. DisCa's Table 4 has 20 and 11; 20 are R(3, 4) with the last step (choice).
"""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless
from .interval import steps_since_full


@dataclass(frozen=True)
class FirstEnhance(Memoryless):
    """Full in the first `first_enhance` steps, then `fresh_threshold` after the last full one.

    The authors' names of R(N, E); with `force_last` the last step is full too.
    """

    fresh_threshold: int = 5
    first_enhance: int = 1
    force_last: bool = False

    def __post_init__(self) -> None:
        for name in ("fresh_threshold", "first_enhance"):
            check_int(name, getattr(self, name), 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        since = steps_since_full(step.index, self.fresh_threshold, self.first_enhance)
        is_last = self.force_last and step.index == len(setting.steps) - 1
        return setting.predicted if since and not is_last else setting.full
