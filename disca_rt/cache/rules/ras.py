"""RAS's rule (arXiv 2502.10389): full steps first, then steps of some rows, with full ones amid."""

from dataclasses import dataclass

from ...schedule import Step
from ..labels import FULL, RAS
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Regions(Memoryless):
    """Some rows at steps `scheduler_start_step` to `scheduler_end_step`, both included.

    All rows at `error_reset_steps`, and at the first step. Which rows a step computes is chosen
    after the one before, but for the last one, which computes those of the step before it: as in
    the code (microsoft/RAS). `given` is 1 where the next step's rows are to be chosen.
    """

    gives = "selection"
    scheduler_start_step: int = 4
    scheduler_end_step: int = 30
    error_reset_steps: tuple[int, ...] = (12, 22)

    def __post_init__(self) -> None:
        check_int("scheduler_start_step", self.scheduler_start_step, 0)
        check_int("scheduler_end_step", self.scheduler_end_step, 0)
        for step in self.error_reset_steps:
            check_int("error_reset_steps", step, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        chooses = self._is_partial(step.index + 1) and step.index + 1 < self.scheduler_end_step
        given = (float(chooses or step.index + 1 == self._first),)
        if self._is_partial(step.index):
            return setting.uniform(Act.REFRESH, RAS)._replace(given=given)
        is_kept = self._first - 1 <= step.index < self.scheduler_end_step
        act = Act.KEEP if is_kept else Act.RUN
        return setting.uniform(act, FULL)._replace(given=given)

    @property
    def _first(self) -> int:
        return max(1, self.scheduler_start_step)

    def _is_partial(self, index: int) -> bool:
        is_within = self._first <= index <= self.scheduler_end_step
        return is_within and index not in self.error_reset_steps
