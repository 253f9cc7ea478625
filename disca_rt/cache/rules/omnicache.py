"""OmniCache's rules: a fixed list, and which part of the cache's error stand-ins take off."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ...schedule import Step
from ..options import check_int, check_number
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless
from .interval import Interval
from .listed import Listed


class _Bands:
    """A base that gives stand-ins the weights of both bands; `split` is the subclass's option."""

    gives = "bands"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("split", self.split, 0, 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        plan = super().decide(setting, step, seen, memory)
        return plan._replace(given=_bands(self.split, setting, step))


@dataclass(frozen=True)
class EarlyLateListed(_Bands, Listed):
    """Full at the indices in `step_list`; stand-ins are given the weights of both bands.

    In the first `split` of the steps these are (1, 0), low frequencies, later (0, 1), high ones
    (OmniCache, arXiv 2508.16212, reconstructed without its code: the split is a choice).
    """

    split: float = 0.5


@dataclass(frozen=True)
class EarlyLateInterval(_Bands, Interval):
    """Full in the first steps and then every `interval`-th; bands as in `EarlyLateListed`."""

    split: float = 0.5


@dataclass(frozen=True)
class EarlyLateBends(Memoryless):
    """Full at the `full_steps` steps where the path bends most; bands as in `EarlyLateListed`.

    `curvature` is that of each step, |x_{s+1} − 2x_s + x_{s−1}| / |x_{s+1} − x_s|², as a
    calibration has it (a choice: OmniCache takes it in a space of fewer dimensions).
    """

    fitted_in: ClassVar[str] = "omnicache"
    fitted: ClassVar[tuple[str, ...]] = ("curvature",)
    gives = "bands"
    full_steps: int
    curvature: tuple[float, ...]
    split: float = 0.5

    def __post_init__(self) -> None:
        check_int("full_steps", self.full_steps, 1)
        check_number("split", self.split, 0, 1)

    def start(self, setting: Setting) -> None:
        steps = len(setting.steps)
        check_int("full_steps", self.full_steps, 1, steps)
        if len(self.curvature) != steps:
            raise ValueError(
                f"curvature must be a number a step, {steps}, got {len(self.curvature)}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        is_full = step.index in self._full
        plan = setting.full if is_full else setting.predicted
        return plan._replace(given=_bands(self.split, setting, step))

    @cached_property
    def _full(self) -> tuple[int, ...]:
        return bends(self.curvature, self.full_steps)


def _bands(split: float, setting: Setting, step: Step) -> tuple[float, float]:
    return (1.0, 0.0) if step.index < split * len(setting.steps) else (0.0, 1.0)


def bends(curvature: Sequence[float], full_steps: int) -> tuple[int, ...]:
    """The `full_steps` steps of most curvature; the first one is among them."""
    later = sorted(range(1, len(curvature)), key=lambda step: (-curvature[step], step))
    return (0, *sorted(later[: full_steps - 1]))
