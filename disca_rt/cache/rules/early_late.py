"""OmniCache's rule: a fixed list, and which part of the cache's error stand-ins take off."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_number
from ..plan import Seen, Setting, StepPlan
from .interval import Interval
from .listed import Listed


@dataclass(frozen=True)
class EarlyLateListed(Listed):
    """Full at the indices in `step_list`; stand-ins are given the weights of both bands.

    In the first `split` of the steps these are (1, 0), low frequencies, later (0, 1), high ones
    (OmniCache, arXiv 2508.16212, reconstructed without its code: the split is a choice).
    """

    gives = "bands"
    split: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("split", self.split, 0, 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        plan = super().decide(setting, step, seen, memory)
        return plan._replace(given=_bands(self.split, setting, step))


@dataclass(frozen=True)
class EarlyLateInterval(Interval):
    """As `EarlyLateListed`, full in the first steps and then every `interval`-th."""

    gives = "bands"
    split: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("split", self.split, 0, 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        plan = super().decide(setting, step, seen, memory)
        return plan._replace(given=_bands(self.split, setting, step))


def _bands(split: float, setting: Setting, step: Step) -> tuple[float, float]:
    return (1.0, 0.0) if step.index < split * len(setting.steps) else (0.0, 1.0)


def straightest_steps(curvatures: list[float], full_steps: int) -> tuple[int, ...]:
    """The `full_steps` steps at which the sampling path bends most; the first one is among them.

    `curvatures[s]` is |x_{s+1} − 2x_s + x_{s−1}| / |x_{s+1} − x_s|² (a choice: OmniCache takes the
    path's curvature in a space of fewer dimensions).
    """
    later = sorted(range(1, len(curvatures)), key=lambda step: (-curvatures[step], step))
    return (0, *sorted(later[: full_steps - 1]))
