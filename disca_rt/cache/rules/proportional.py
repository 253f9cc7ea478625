"""The rule of a list that was published for one number of steps, at any number of them."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless
from .listed import check_indices
from .nearest import nearest


@dataclass(frozen=True)
class Proportional(Memoryless):
    """Full at the indices in `step_list` of a sample of `of_steps` steps.

    In a sample of another number of steps each does as the nearest of those (choice); the first one
    is full in any case.
    """

    step_list: tuple[int, ...]
    of_steps: int = 50

    def __post_init__(self) -> None:
        check_indices("step_list", self.step_list)
        check_int("of_steps", self.of_steps, self.step_list[-1] + 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        is_near = nearest(range(self.of_steps), len(setting.steps))[step.index] in self.step_list
        return setting.full if is_near or step.index == 0 else setting.predicted
