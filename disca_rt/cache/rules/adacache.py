"""The rule of AdaCache: how much one branch changed says how long all of them are reused."""

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from ...schedule import Step
from ..labels import FULL
from ..options import check_int
from ..plan import Act, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults

CHANGE, MOTION = (Probe("slot", "stand-in", norm=norm) for norm in ("l1", "motion"))


class Pace(NamedTuple):
    """Steps from the last computed one to the next, which one that was, and its motion."""

    rate: int = 1
    computed: int = 0
    motion: float = 1.0


@dataclass(frozen=True)
class AdaCache(RuleDefaults):
    """The next computation is `codebook`'s number of steps away (AdaCache, arXiv 2411.02397).

    At a computed step the change of slot 0, mean|r−r'| / mean|r'| of what it adds to the tokens, is
    divided by the steps between the two (its code; the paper does not); `codebook` has pairs
    "change:rate", and the first change above the measured one decides, or the last rate. With
    `apply_moreg` the change is multiplied by a factor M + `mograd_mul`·|M − M'| / rate, with
    M = (motion/`moreg_hyp`[0])^`moreg_hyp`[1] / `moreg_hyp`[2] (a fourth one is never read) at the
    steps `moreg_steps`, counted from 1, and 1 at others; by default from a tenth of all steps to
    nine tenths, as the authors have it for 100 (choice). The conditional pass decides for both
    (choice). Computed in any case: the first step and the last two.
    """

    codebook: tuple[str, ...] = ("0.08:3", "0.16:2", "1.0:1")
    apply_moreg: bool = False
    moreg_steps: tuple[int, ...] = ()
    moreg_hyp: tuple[float, ...] = (0.385, 8.0, 1.0)
    mograd_mul: float = 10.0

    def __post_init__(self) -> None:
        _read(self.codebook)
        if len(self.moreg_steps) not in (0, 2):
            raise ValueError(f"moreg_steps must be a first and a last one, got {self.moreg_steps}")
        if len(self.moreg_hyp) not in (3, 4) or self.moreg_hyp[0] == 0 or self.moreg_hyp[2] == 0:
            raise ValueError(f"moreg_hyp must be three or four numbers, got {self.moreg_hyp}")

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (CHANGE, MOTION) if self.apply_moreg else (CHANGE,)

    def start(self, setting: Setting) -> Pace:
        return Pace()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Pace) -> StepPlan:
        steps = len(setting.steps)
        is_forced = step.index in (0, steps - 2, steps - 1)
        if is_forced or step.index == memory.computed + memory.rate:
            return setting.uniform(Act.KEEP, FULL, self.probes)
        return setting.predicted

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Pace
    ) -> Pace:
        if not plan.keeps():
            return memory
        change = seen[CHANGE].ratio
        if isnan(change):  # nothing before
            return memory._replace(computed=step.index)
        motion = self._motion(setting, step, seen) if self.apply_moreg else 1.0
        jump = self.mograd_mul * abs(motion - memory.motion) / memory.rate
        factor = motion + jump if self.apply_moreg else 1.0
        return Pace(self._rate(change / memory.rate * factor), step.index, motion)

    def _motion(self, setting: Setting, step: Step, seen: Seen) -> float:
        steps = len(setting.steps)
        first, last = self.moreg_steps or (0.1 * steps, 0.9 * steps)
        measured = seen[MOTION].ratio
        if not first <= step.index + 1 <= last or isnan(measured):  # a single frame has none
            return 1.0
        usual, power, size = self.moreg_hyp[:3]
        return (measured / usual) ** power / size

    def _rate(self, change: float) -> int:
        book = _read(self.codebook)
        return next((rate for limit, rate in book if change < limit), book[-1][1])


def _read(codebook: tuple[str, ...]) -> list[tuple[float, int]]:
    """Limits and rates; ValueError where they are none."""
    try:
        book = [(float(limit), int(rate)) for limit, rate in (p.split(":") for p in codebook)]
    except ValueError:
        book = []
    limits = [limit for limit, _ in book]
    if not book or limits != sorted({*limits}) or any(map(isnan, limits)):
        raise ValueError(
            "codebook must be rising changes with rates such as 0.08:3,0.16:2,1.0:1, "
            f"got {','.join(codebook)}"
        )
    for _, rate in book:
        check_int("a rate of codebook", rate, 1)
    return book
