"""The rule without a cache: every step is computed."""

from dataclasses import dataclass

from ...schedule import Step
from ..labels import FULL
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Always(Memoryless):
    """Computes every step and keeps nothing."""

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return setting.uniform(Act.RUN, FULL)
