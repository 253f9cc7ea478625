"""Delta-DiT's rule (arXiv 2406.01125): every N-th step is full, the others skip one of two ranges.

Early steps, which draw the outline, skip the back blocks; late ones, which draw details, the front
ones. DisCa's experiments leave the second range out, and so does this rule without a bound.
"""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan, labelled
from ..rule import Memoryless


@dataclass(frozen=True)
class DeltaDiT(Memoryless):
    """Full at every `interval`-th step, from the first on; in the others one slot stands in.

    That is slot 0 before step number `bound`, and slot 1 from it on; with `bound` None always slot
    0, which is the only one.
    """

    interval: int = 5
    bound: int | None = None

    def __post_init__(self) -> None:
        check_int("interval", self.interval, 1)
        if self.bound is not None:
            check_int("bound", self.bound, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        if step.index % self.interval == 0:
            return setting.full
        if self.bound is None:
            return setting.predicted
        acts = Act.STAND_IN, Act.RUN
        acts = acts if step.index < self.bound else acts[::-1]
        return labelled((acts,) * setting.passes)
