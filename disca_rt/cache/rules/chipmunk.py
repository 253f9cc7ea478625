"""Chipmunk's rule (sandyresearch/chipmunk): steps of full attention, sparse ones, skipped ones."""

from dataclasses import dataclass

from ...schedule import Step
from ..labels import FULL, PREDICTED, SPARSE
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless

PUBLISHED, STEPS = (0, 1, 10, 40), 50  # chipmunk-config.yml of HunyuanVideo


@dataclass(frozen=True)
class SparseSteps(Memoryless):
    """Full attention at `full_step_schedule`, no block at `skip_step_schedule`, sparse between.

    The list is the published one for 50 steps by default; with another number of steps its places
    beyond the second are moved in proportion (a choice). The first slot is at attention; the second
    one, where steps are skipped, at all blocks.
    """

    full_step_schedule: tuple[int, ...] = PUBLISHED
    skip_step_schedule: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("full_step_schedule", "skip_step_schedule"):
            for index in getattr(self, name):
                check_int(name, index, 0)
        if 0 not in self.full_step_schedule:
            raise ValueError(
                "full_step_schedule must have step 0 (nothing is cached before), got "
                f"{list(self.full_step_schedule)}"
            )
        both = set(self.full_step_schedule) & set(self.skip_step_schedule)
        if both:
            raise ValueError(
                f"skip_step_schedule must leave out full_step_schedule, got {min(both)} in both"
            )

    def start(self, setting: Setting) -> None:
        steps = len(setting.steps)
        for name, listed in (
            ("full_step_schedule", self._full_steps(steps)),
            ("skip_step_schedule", self.skip_step_schedule),
        ):
            if listed and max(listed) >= steps:
                raise ValueError(
                    f"{name} must stay below steps: with {steps} steps the last index is "
                    f"{steps - 1}, got {max(listed)}"
                )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        others = setting.slots - 1
        if step.index in self.skip_step_schedule:
            acts, label = (Act.RUN, *(Act.STAND_IN,) * others), PREDICTED
        elif step.index in self._full_steps(len(setting.steps)):
            acts, label = (Act.KEEP,) * setting.slots, FULL
        else:
            acts, label = (Act.STAND_IN, *(Act.KEEP,) * others), SPARSE
        return StepPlan((acts,) * setting.passes, label)

    def _full_steps(self, steps: int) -> tuple[int, ...]:
        if self.full_step_schedule != PUBLISHED or steps == STEPS:
            return self.full_step_schedule
        moved = (index if index < 2 else index * steps // STEPS for index in PUBLISHED)
        return tuple(sorted({min(index, steps - 1) for index in moved}))
