"""Faster Diffusion's rule (arXiv 2312.09608): full at key steps, dense early; or at every N-th."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from .listed import Listed

KEY_STEPS = 0, 1, 2, 3, 5, 10, 15, 25, 35
OF_STEPS = 50


@dataclass(frozen=True)
class KeySteps:
    """Full at `key_steps`, or at every `mod`-th step where it is given.

    `key_steps` None: the authors' list for 50 steps, scaled to another number of steps (choice).
    """

    mod: int | None = None
    key_steps: tuple[int, ...] | None = None
    probes = ()

    def __post_init__(self) -> None:
        if self.mod is not None:
            check_int("mod", self.mod, 1)
            if self.key_steps is not None:
                raise ValueError("mod takes the place of key_steps; give one of them")

    def start(self, setting: Setting) -> Listed:
        """The rule of this sample's list."""
        steps = len(setting.steps)
        if self.mod is not None:
            return Listed(tuple(range(0, steps, self.mod)))
        keys = self.key_steps
        if keys is None:
            keys = tuple(sorted({key * steps // OF_STEPS for key in KEY_STEPS}))
        listed = Listed(keys)
        listed.start(setting)
        return listed

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Listed) -> StepPlan:
        return memory.decide(setting, step, seen, None)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Listed
    ) -> Listed:
        return memory
