"""The rule of FORA: full every `fresh_threshold` steps, counted from the first or to the last."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Fresh(Memoryless):
    """Full at step 0, and at every `fresh_threshold`-th step (FORA, arXiv 2407.01425).

    Counted from step 0, as in the paper and in its HunyuanVideo code, R(N, 1). With
    `last_step_full` counted backwards from the last step, as in the authors' DiT code. Only
    `max_order` 0 and `fresh_ratio` 0 mean FORA: that code takes other methods by them.
    """

    fresh_threshold: int = 3
    last_step_full: bool = False
    max_order: int = 0
    fresh_ratio: float = 0.0

    def __post_init__(self) -> None:
        check_int("fresh_threshold", self.fresh_threshold, 1)
        if self.max_order != 0:
            raise ValueError(f"max_order must be 0, got {self.max_order}; taylorseer has others")
        if self.fresh_ratio != 0:
            raise ValueError(f"fresh_ratio must be 0, got {self.fresh_ratio}; toca has others")

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        count = len(setting.steps) - 1 - step.index if self.last_step_full else step.index
        is_full = step.index == 0 or count % self.fresh_threshold == 0
        return setting.full if is_full else setting.predicted
