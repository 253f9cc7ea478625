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
        check_indices("step_list", self.step_list)

    def start(self, setting: Setting) -> None:
        check_indices("step_list", self.step_list, len(setting.steps))

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return setting.full if step.index in self.step_list else setting.predicted


def check_indices(name: str, indices: Sequence[int], steps: int | None = None) -> None:
    """Raises ValueError unless the indices `name` begin with 0, increase and stay below `steps`."""
    shown = list(indices)
    if not {*map(type, shown)} <= {int}:
        raise ValueError(f"{name} must be whole numbers, got {shown}")
    if not shown or shown[0] != 0:
        raise ValueError(f"{name} must begin with 0 (nothing is cached before), got {shown}")
    if shown != sorted(set(shown)):
        raise ValueError(f"{name} must increase without repeats, got {shown}")
    if steps is not None and shown[-1] >= steps:
        raise ValueError(
            f"{name} must stay below steps: with {steps} steps the last index is {steps - 1}, "
            f"got {shown[-1]}"
        )
