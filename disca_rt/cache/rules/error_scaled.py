"""ERTACache's rule: a fixed list, and how far the residual will have drifted at other steps."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_number
from ..plan import Seen, Setting, StepPlan
from .listed import Listed
from .nearest import nearest


@dataclass(frozen=True)
class ErrorScaled(Listed):
    """Full at the indices in `step_list`; elsewhere stand-ins are given 1 + k_s.

    k are the `error_scale`, a number a step: the kept residual's error is taken to be a multiple of
    it, r_s − r_j ≈ k_s·r_j (ERTACache, arXiv 2508.21091, reconstructed: its code could not be read,
    and list, error model and scale are choices; its correction of the step's length is left out).
    A table of another length than the sample is read at the nearest steps. None: no correction.
    """

    gives = "scale"
    error_scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for scale in self.error_scale or ():
            check_number("each of error_scale", scale, -1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        plan = super().decide(setting, step, seen, memory)
        scales = nearest(self.error_scale or (0.0,), len(setting.steps))
        return plan._replace(given=(1.0 + scales[step.index],))


def reusable_steps(changes: list[list[float]], threshold: float) -> tuple[int, ...]:
    """The full steps of a list made greedily: a step is reused while its change is small.

    `changes[s][j]` is the profiled mean|r_s − r_j| / mean|r_j| of step s against an earlier step j.
    """
    full = [0]
    for step in range(1, len(changes)):
        if not changes[step][full[-1]] < threshold:
            full.append(step)
    return tuple(full)


def error_scales(products: list[list[float]], step_list: tuple[int, ...]) -> tuple[float, ...]:
    """k_s of each step by least squares: ⟨r_s − r_j, r_j⟩ / ⟨r_j, r_j⟩, j its last full step.

    `products[s][j]` is ⟨r_s, r_j⟩, summed over the prompts of a calibration.
    """
    scales = []
    for step, row in enumerate(products):
        last = max(full for full in step_list if full <= step)
        scales.append(row[last] / products[last][last] - 1)
    return tuple(scales)
