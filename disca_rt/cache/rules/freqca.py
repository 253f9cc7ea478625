"""FreqCa's rule (arXiv 2510.08669): that of TaylorSeer with the interval under another name."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_int
from ..plan import Seen, Setting, StepPlan
from ..rule import Memoryless
from .first_enhance import FirstEnhance


@dataclass(frozen=True)
class Enhanced(Memoryless):
    """Full in the first `first_enhance` steps, and `interval` steps after the last full one."""

    interval: int = 6
    first_enhance: int = 3

    def __post_init__(self) -> None:
        for name in ("interval", "first_enhance"):
            check_int(name, getattr(self, name), 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return FirstEnhance(self.interval, self.first_enhance).decide(setting, step, seen, memory)
