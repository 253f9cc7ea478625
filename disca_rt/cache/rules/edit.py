"""EEdit's steps (arXiv 2503.10270): full ones at an interval and at the end, else some rows."""

from dataclasses import dataclass
from typing import ClassVar

from ...schedule import Step
from ..labels import EDIT, FULL
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan
from .between import Between, Kind


@dataclass(frozen=True)
class EditSteps(Between):
    """Full are the steps of `Between`, and the last `tailing_step` ones.

    The other steps compute the rows of the edit. `first_enhance` is not EEdit's, which has 1.
    """

    kinds: ClassVar[tuple[Kind, ...]] = (Kind(EDIT, (Act.REFRESH,)),)
    tailing_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("tailing_step", self.tailing_step, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        if step.index >= len(setting.steps) - self.tailing_step:
            return setting.uniform(Act.KEEP, FULL)
        return super().decide(setting, step, seen, memory)
