"""The rule of TaylorSeer in diffusers (hooks/taylorseer_cache.py)."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class CacheInterval(Memoryless):
    """Full before step B, at B + 1 and every `cache_interval` steps from there, and at the end.

    B is `disable_cache_before_step`: step B itself is predicted, as in diffusers' code (but for an
    interval of 1). From `disable_cache_after_step` on all steps are full; none: nowhere.
    """

    cache_interval: int = 5
    disable_cache_before_step: int = 3
    disable_cache_after_step: int | None = None

    def __post_init__(self) -> None:
        for name in ("cache_interval", "disable_cache_before_step"):
            check_int(name, getattr(self, name), 1)
        if self.disable_cache_after_step is not None:
            check_int("disable_cache_after_step", self.disable_cache_after_step, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        after, index = self.disable_cache_after_step, step.index
        is_full = (
            index < self.disable_cache_before_step
            or (index - self.disable_cache_before_step - 1) % self.cache_interval == 0
            or (after is not None and index >= after)
        )
        return setting.full if is_full else setting.predicted
