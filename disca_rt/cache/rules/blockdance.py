"""BlockDance's rule: full in an early share of the steps, then groups of one full step and others.

BlockDance-Ada's is in `blockdance_ada`.
"""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class LateGroups(Memoryless):
    """Full in the first `full_share` of n steps, int(share·n); then every `interval`-th one.

    The first step of a group is its full one. MixCache ran it with 0.4 and groups of 4.
    """

    interval: int = 4
    full_share: float = 0.4

    def __post_init__(self) -> None:
        check_int("interval", self.interval, 1)
        if not 0 <= self.full_share <= 1:
            raise ValueError(f"full_share must be from 0 to 1, got {self.full_share}")

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        after = step.index - int(self.full_share * len(setting.steps))
        return setting.full if after < 0 or after % self.interval == 0 else setting.predicted
