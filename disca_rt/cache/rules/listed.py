"""The rule of a fixed list: full at given steps, stand-ins at the others (DisCa's presets)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...schedule import Step
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Listed(Memoryless):
    """Full at the indices in `step_list`, which begins with 0 and increases; checked when built."""

    step_list: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.step_list, tuple):
            raise ValueError(f"step_list must be a tuple of indices, got {self.step_list!r}")
        check_step_list(self.step_list)

    def start(self, setting: Setting) -> None:
        steps = len(setting.steps)
        if self.step_list[-1] >= steps:
            raise ValueError(
                f"step_list must stay below steps: with {steps} steps the last index is "
                f"{steps - 1}, got {self.step_list[-1]}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return setting.full if step.index in self.step_list else setting.predicted


def check_step_list(step_list: Sequence[int]) -> None:
    """Raises ValueError unless `step_list` begins with 0 and increases."""
    shown = list(step_list)
    if not {*map(type, shown)} <= {int}:
        raise ValueError(f"step_list must be whole numbers, got {shown}")
    if not shown or shown[0] != 0:
        raise ValueError(f"step_list must begin with 0 (nothing is cached before), got {shown}")
    if shown != sorted(set(shown)):
        raise ValueError(f"step_list must increase without repeats, got {shown}")
