"""EasyCache's rule: full once the output's estimated changes have added up to a threshold."""

from dataclasses import dataclass
from typing import NamedTuple

from ...schedule import Step
from ..options import check_int, check_number
from ..plan import Answer, Ask, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults

CHANGE = Probe("latents")
LATENTS = Probe("latents", "kept")
VELOCITY = Probe("velocity", "kept")
SIZE = Probe("velocity", "kept", norm="size")


class Transformed(NamedTuple):
    """Facts of the last full step: how far it changes what is fed, and the size of its velocity.

    `rate` is Σ|v_j − v_j'| / Σ|x_j − x_j'|, j' the full step before, None until there was one.
    `total` adds up the estimates since.
    """

    total: float = 0.0
    rate: float | None = None
    size: float = 0.0


@dataclass(frozen=True)
class EasyCache(RuleDefaults):
    """Adds up rate·Σ|x − x'| / Σ|v_j|; full where the sum reaches `thresh`, and it begins anew.

    x are the latents and x' those of the step before, v_j the guided velocity of the last full step
    (EasyCache, arXiv 2507.02860, by the authors' code, which takes the rate of change over the last
    two full steps, not over neighbours). The first `ret_steps` steps and the last one are full, and
    every step is until a rate is known. The guided velocity decides for both passes (choice).
    """

    thresh: float = 0.025
    ret_steps: int = 5
    probes = CHANGE, LATENTS, VELOCITY, SIZE

    def __post_init__(self) -> None:
        check_number("thresh", self.thresh, 0)
        check_int("ret_steps", self.ret_steps, 0)

    def start(self, setting: Setting) -> Transformed:
        return Transformed()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Transformed) -> Answer:
        full = setting.full._replace(watch=(LATENTS, VELOCITY, SIZE))
        if step.index < self.ret_steps or step.index == len(setting.steps) - 1:
            return full._replace(watch=self.probes)
        if CHANGE not in seen:
            return Ask(CHANGE)
        is_small = memory.rate is not None and self._total(seen, memory) < self.thresh
        return setting.predicted if is_small else full

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Transformed
    ) -> Transformed:
        if not plan.keeps():
            return memory._replace(total=self._total(seen, memory))
        change = seen[LATENTS].numerator
        if change != change:  # the first full step, nothing to compare with
            return Transformed()
        output = seen[VELOCITY].numerator
        return Transformed(0.0, output / change if change else None, seen[SIZE].numerator)

    def _total(self, seen: Seen, memory: Transformed) -> float:
        """The sum with this step's estimate; NaN where the velocity is 0."""
        estimate = memory.rate * seen[CHANGE].numerator
        return memory.total + (estimate / memory.size if memory.size else float("nan"))
