"""Faster Diffusion's rule (arXiv 2312.09608): full at key steps, dense early; or at every N-th."""

from dataclasses import dataclass

from ..options import check_int
from ..plan import Setting, StepPlan
from ..rule import Planned, known_plans
from .listed import Listed

KEY_STEPS = 0, 1, 2, 3, 5, 10, 15, 25, 35
OF_STEPS = 50


@dataclass(frozen=True)
class KeySteps(Planned):
    """Full at `key_steps`, or at every `mod`-th step where it is given.

    `key_steps` None: the authors' list for 50 steps, scaled to another number of steps (choice).
    """

    mod: int | None = None
    key_steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mod is not None:
            check_int("mod", self.mod, 1)
            if self.key_steps is not None:
                raise ValueError("mod takes the place of key_steps; give one of them")

    def plans(self, setting: Setting) -> tuple[StepPlan, ...]:
        """Those of this sample's list."""
        steps, keys = len(setting.steps), self.key_steps
        if self.mod is not None:
            keys = tuple(range(0, steps, self.mod))
        elif keys is None:
            keys = tuple(sorted({key * steps // OF_STEPS for key in KEY_STEPS}))
        return known_plans(Listed(keys), setting)
