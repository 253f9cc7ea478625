"""ERTACache's rules: a list, and how far the residual will have drifted at other steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ...schedule import Step
from ..options import check_number
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless
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


@dataclass(frozen=True)
class ErrorBelow(Memoryless):
    """`ErrorScaled` by a calibration: reuse while the residual's error is below `threshold`.

    For each step s and each j < s, in the order (1, 0), (2, 0), (2, 1), ...: `errors` are
    mean|r_s − r_j| / mean|r_j|, and `scales` the k for which k·r_j is nearest to r_s − r_j by least
    squares. The list is greedy, and the threshold a choice: the paper's is not known.
    """

    fitted_in: ClassVar[str] = "ertacache"
    fitted: ClassVar[tuple[str, ...]] = ("errors", "scales")
    gives = ErrorScaled.gives
    errors: tuple[float, ...]
    scales: tuple[float, ...]
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0)
        if len(self.errors) != len(self.scales):
            raise ValueError("errors and scales must be as many, one for each pair of steps")

    @cached_property
    def listed(self) -> ErrorScaled:
        """The list, and the scale of each step."""
        full = reusable_steps(_by_step(self.errors), self.threshold)
        scales = [(), *_by_step(self.scales)]
        kept = [max(each for each in full if each <= step) for step in range(len(scales))]
        found = (0.0 if j == s else scales[s][j] for s, j in enumerate(kept))
        return ErrorScaled(full, tuple(found))

    def start(self, setting: Setting) -> None:
        pairs = len(setting.steps) * (len(setting.steps) - 1) // 2
        if len(self.errors) != pairs:
            raise ValueError(
                f"errors must be a number for each pair of {len(setting.steps)} steps, {pairs} in "
                f"all, got {len(self.errors)}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return self.listed.decide(setting, step, seen, memory)


def _by_step(pairs: Sequence[float]) -> list[Sequence[float]]:
    """The numbers of step 1, of step 2, ..., each those against the steps before it."""
    rows, start = [], 0
    while start < len(pairs):
        count = len(rows) + 1
        rows.append(pairs[start : start + count])
        start += count
    return rows


def reusable_steps(errors: Sequence[Sequence[float]], threshold: float) -> tuple[int, ...]:
    """The full steps of a list made greedily: a step is reused while its error is small.

    `errors[s - 1][j]` is that of step s against an earlier step j.
    """
    full = [0]
    for step, row in enumerate(errors, 1):
        if not row[full[-1]] < threshold:
            full.append(step)
    return tuple(full)
