"""Faster Diffusion's rule (arXiv 2312.09608): full at key steps, dense early; or at every N-th."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int, check_number
from ..plan import Act, Setting, StepPlan
from ..rule import Planned, known_plans
from .listed import Listed, check_indices

KEY_STEPS = 0, 1, 2, 3, 5, 10, 15, 25, 35
OF_STEPS = 50
LATE = 0.5  # noise levels below this have prior noise added: t below 500 of 1000


@dataclass(frozen=True)
class KeySteps(Planned):
    """Full at `key_steps`, or at every `mod`-th step where it is given.

    `key_steps` None: the authors' list for 50 steps, scaled to another number of steps (choice).
    At the last slot the steps from noise levels below 0.5 add `prior_noise` times the noise that
    the sample began with, each time, however many they are: 0.003 in the authors' code, which has
    no name for it; 0: none.
    """

    gives = "noise"
    mod: int | None = None
    key_steps: tuple[int, ...] | None = None
    prior_noise: float = 0.003

    def __post_init__(self) -> None:
        check_number("prior_noise", self.prior_noise, 0, 1)
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
        check_indices("key_steps", keys, steps)
        if not self.prior_noise:
            return known_plans(Listed(keys), setting)
        plans = known_plans(Listed(keys), setting._replace(slots=setting.slots - 1))
        return tuple(map(self._with_noise, plans, setting.steps))

    def _with_noise(self, plan: StepPlan, step: Step) -> StepPlan:
        """`plan`, with the velocity's slot: it keeps the noise at first and adds it late."""
        is_late = step.sigma < LATE
        act = Act.KEEP if step.index == 0 else Act.REFRESH if is_late else Act.RUN
        first, *others = plan.passes
        passes = (*first, act), *((*acts, Act.RUN) for acts in others)
        noise = self.prior_noise / (step.sigma_next - step.sigma) if is_late else 0.0
        return plan._replace(passes=passes, given=(noise,))
