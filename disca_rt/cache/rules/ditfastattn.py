"""DiTFastAttn's rule (thu-nics/DiTFastAttn): each block's attention in each step, by a plan.

Without a plan all blocks are alike: full attention at every `interval`-th step, windows between.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...schedule import Step
from ..attention_plan import FULL, REUSE, SHARED, WINDOW, Ways, as_plan
from ..attention_slots import KINDS, Kind
from ..labels import FULL as FULL_STEP
from ..labels import PREDICTED, SPARSE
from ..options import File, check_int
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Windowed(Memoryless):
    """Full attention at every `interval`-th step, a window and the kept rest at the others.

    A choice: the authors have calibrated plans only, and none is published for HunyuanVideo.
    """

    interval: int = 2

    def __post_init__(self) -> None:
        check_int("interval", self.interval, 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        is_full = step.index % self.interval == 0
        return setting.full if is_full else setting.predicted._replace(label=SPARSE)


@dataclass(frozen=True)
class ByPlan(Memoryless):
    """The way of attention of each step and block in the file `plan`, or in a calibration.

    What a later step needs is kept, and nothing else. Where the unconditional pass takes the
    conditional one's output and keeps the rest beside a window, that is of its own window (a
    choice: the authors keep the conditional pass's for both).
    """

    fitted_in: ClassVar[str] = "ditfastattn"
    fitted: ClassVar[tuple[str, ...]] = ("plan",)
    plan: File | Ways  # the plan itself once built

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", as_plan(self.plan))

    def start(self, setting: Setting) -> None:
        steps, ways = len(setting.steps), self.plan.ways
        if len(ways) != steps:
            raise ValueError(f"plan is of {len(ways)} steps, got {steps}; make one of as many")

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        if self.plan.has(SHARED) and setting.passes == 1:
            raise ValueError(
                f"plan has {SHARED}, which needs classifier-free guidance, got one pass; make one "
                "without it"
            )
        kinds = [kind for kind in KINDS if self.plan.has(kind.part)]
        blocks, index = range(self.plan.blocks), step.index
        passes = tuple(
            tuple(self._act(kind, index, block, number) for kind in kinds for block in blocks)
            for number in range(setting.passes)
        )
        ways = set(self.plan.ways[index])
        labels = {(FULL,): FULL_STEP, (REUSE,): PREDICTED}
        return StepPlan(passes, labels.get(tuple(ways), SPARSE))

    def _act(self, kind: Kind, step: int, block: int, number: int) -> Act:
        way, later = self.plan.ways[step][block], [w[block] for w in self.plan.ways[step + 1 :]]
        takes_other = SHARED in way and number == 1
        if kind.part == REUSE:
            return _kept(Act.STAND_IN if way == REUSE else Act.RUN, later[:1] == [REUSE])
        if kind.part == SHARED:
            is_kept = step == 0 or (SHARED in way and number == 0)  # at 0 in both, for the checks
            return _kept(Act.STAND_IN if takes_other else Act.RUN, is_kept)
        if WINDOW in way:
            return Act.RUN if takes_other else Act.STAND_IN
        until_full = next((i for i, w in enumerate(later) if FULL in w), len(later))
        return _kept(Act.RUN, FULL in way and any(WINDOW in w for w in later[:until_full]))


def _kept(act: Act, is_needed: bool) -> Act:
    """KEEP in place of RUN where a later step needs it."""
    return Act.KEEP if act == Act.RUN and is_needed else act
