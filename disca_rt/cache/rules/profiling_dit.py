"""ProfilingDiT's rule, as its code has it (GeekGuru123/ProfilingDiT, `hyvideo/ditcache.py`).

Double blocks are computed at an interval, single ones at steps of a list. In the paper the interval
shrinks from step to step, and the blocks of the foreground are replaced in turn with those of the
background; the code has switched that off.
"""

from dataclasses import dataclass

from ...config import DiTConfig
from ...schedule import Step
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan, labelled
from ..ranges import profiled_double
from ..rule import RuleDefaults

STEPS = 6, 18, 26, 32, 38, 42, 46, 48
Steps = tuple[frozenset[int], frozenset[int]]
"""The steps in which double blocks, then single ones are computed."""


@dataclass(frozen=True)
class ProfilingDiT(RuleDefaults):
    """Full before `step_start`; then double blocks at every `step_interval`-th step.

    Single ones are computed at `step_cache_list`, of 50 steps as the code has it, which for other
    numbers of steps is not scaled. `max_interval` and `min_interval` together give the paper's rule
    instead, for all blocks: after a step s that was computed the next one comes after Tmax −
    (Tmax − Tmin)·(s − s0)/(n − s0) steps, rounded (choice), with s0 = `step_start`.
    """

    config: DiTConfig
    step_start: int = 6
    step_interval: int = 6
    step_cache_list: tuple[int, ...] = STEPS
    block_start_double: int | None = None
    num_blocks_double: int | None = None
    max_interval: int | None = None
    min_interval: int | None = None
    probes = ()

    def __post_init__(self) -> None:
        check_int("step_start", self.step_start, 0)
        check_int("step_interval", self.step_interval, 1)
        if (self.max_interval is None) != (self.min_interval is None):
            raise ValueError("max_interval and min_interval go together; give both or none")
        if self.max_interval is not None:
            check_int("min_interval", self.min_interval, 1)
            check_int("max_interval", self.max_interval, self.min_interval)
        elif self.step_start not in self.step_cache_list:
            raise ValueError(
                f"step_cache_list must have step_start {self.step_start} (nothing is kept before), "
                f"got {list(self.step_cache_list)}"
            )

    def start(self, setting: Setting) -> Steps:
        steps = len(setting.steps)
        if self.max_interval is not None:
            return (self._shrinking(steps),) * 2
        doubles = range(self.step_start, steps, self.step_interval)
        return frozenset(doubles), frozenset(self.step_cache_list)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Steps) -> StepPlan:
        if step.index < self.step_start:
            return labelled(((Act.RUN,) * setting.slots,) * setting.passes)
        double, single = (Act.KEEP if step.index in steps else Act.STAND_IN for steps in memory)
        has_double = profiled_double(self.config, self.block_start_double, self.num_blocks_double)
        acts = (double,) * bool(has_double)
        acts += (single,) * (setting.slots - len(acts))
        return labelled((acts,) * setting.passes)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Steps
    ) -> Steps:
        return memory

    def _shrinking(self, steps: int) -> frozenset[int]:
        found, step = [], self.step_start
        while step < steps:
            found.append(step)
            gone = (step - self.step_start) / (steps - self.step_start)
            step += round(self.max_interval - (self.max_interval - self.min_interval) * gone)
        return frozenset(found)
