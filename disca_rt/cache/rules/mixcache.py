"""MixCache: after a warm-up, steps in which one of several levels is cached, that of least cost.

Modes of a cached step: "step", the guided velocity of the step before; "cfg", the unconditional
pass is the conditional one plus their last difference; "block", the same, and the conditional pass
begins with the tokens that were kept after one of its blocks. A mode is numbered as its slot.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...config import DiTConfig
from ...schedule import Step
from ..labels import BY_LEVEL, FULL
from ..options import check_int
from ..placements.guidance import prefix_stops
from ..plan import Act, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults

STEP, CFG, BLOCKS = 0, 1, 2  # modes; those of blocks from BLOCKS on

OF_STEP = Probe("velocity")  # O against that of the step before
OF_FULL = Probe("velocity", "kept", kept_by=CFG)  # against that of the full step before
OF_CFG = Probe("patches", "conditional", which_pass=1)  # u against c


class Mixed(NamedTuple):
    """The memory: is warm-up over, cached steps left, the mode of the last step, D of each mode."""

    is_warm: bool
    left: int
    before: int | None
    changes: tuple[float, ...]


@dataclass(frozen=True)
class MixCache(RuleDefaults):
    """MixCache (arXiv 2508.12691), of which no code is public.

    Steps are full until D of the guided velocity falls below `theta`; this is tested until it does
    (the listing tests it at every step). Then one step in N is full: N is the first, second or
    third of `N` for a D between full steps below `d[0]`, below `d[1]`, or not. A cached step takes
    the mode of the least D·I that is not the mode of the step before; of equal ones the first in
    the order step, cfg, blocks (choice). Where none is left the step is full (choice).

    D of a mode is that of the last step that computed it (choice): of "step" all steps but those of
    that mode, of "cfg" full ones, of a block those in which the conditional pass runs from its
    first block on, which keep its tokens as well (choice).

    I is a mode's impact on the result. Values are unpublished, and a calibration has the model's
    own; without one `I_cfg` is 10 times `I_step`, as the paper has it, and `I_block` is as large as
    `I_step` (choice). Where `blocks` or `I_block` are given, nothing is of a calibration. `I_block`
    is one number, one for each of `blocks`, or one for each of them in each step, step by step.
    `blocks` are numbers of blocks after which tokens are kept: by default 10, 20 and 30 of 60, in
    proportion.
    """

    fitted_in: ClassVar[str] = "mixcache"
    fitted: ClassVar[tuple[str, ...]] = ("theta", "I_step", "I_cfg", "I_block")
    fitted_unless: ClassVar[tuple[str, ...]] = ("blocks", "I_block")
    config: DiTConfig
    theta: float = 0.1
    d: tuple[float, ...] = (0.05, 0.1)
    N: tuple[int, ...] = (4, 3, 2)
    I_step: float = 1.0
    I_cfg: float = 10.0
    I_block: tuple[float, ...] = (1.0,)
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, length in (("d", 2), ("N", 3)):
            value = getattr(self, name)
            if len(value) != length:
                raise ValueError(f"{name} must be {length} numbers, got {list(value)}")
        if not self.d[0] <= self.d[1]:
            raise ValueError(f"d must not fall, got {list(self.d)}")
        for interval in self.N:
            check_int("N", interval, 1)
        for value in (self.theta, self.I_step, self.I_cfg, *self.I_block):
            if not value >= 0:
                raise ValueError(f"theta and impacts must be at least 0, got {value}")

    @property
    def probes(self) -> tuple[Probe, ...]:
        return OF_STEP, OF_FULL, OF_CFG, *self._of_blocks

    def start(self, setting: Setting) -> Mixed:
        levels, steps = len(self._of_blocks), len(setting.steps)
        if len(self.I_block) not in (1, levels, levels * steps):
            raise ValueError(
                f"I_block must be 1 number, {levels} for the blocks, or {levels * steps} for those "
                f"of each step, got {len(self.I_block)}"
            )
        return Mixed(False, 0, None, (math.nan,) * (BLOCKS + levels))

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Mixed) -> StepPlan:
        mode = self._mode(setting, step, memory) if memory.left else None
        watch = {
            None: (OF_STEP, OF_FULL, *[OF_CFG] * (setting.passes - 1), *self._of_blocks),
            STEP: (),
            CFG: (OF_STEP, *self._of_blocks),
        }
        return _plan(setting, mode, watch.get(mode, (OF_STEP,)))

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Mixed
    ) -> Mixed:
        measured = (OF_STEP, OF_CFG, *self._of_blocks)
        changes = tuple(
            seen[probe].ratio if probe in seen else before
            for probe, before in zip(measured, memory.changes, strict=True)
        )
        if plan.label != FULL:
            stands = [slot for slot, act in enumerate(plan.passes[0]) if act == Act.STAND_IN]
            return Mixed(True, memory.left - 1, stands[0] if stands else CFG, changes)
        is_warm = memory.is_warm or changes[STEP] < self.theta
        interval = self.N[sum(seen[OF_FULL].ratio >= bound for bound in self.d)]
        return Mixed(is_warm, interval - 1 if is_warm else 0, None, changes)

    @property
    def _of_blocks(self) -> tuple[Probe, ...]:
        levels = len(prefix_stops(self.blocks, self.config))
        return tuple(Probe("slot", "stand-in", slot=BLOCKS + i) for i in range(levels))

    def _mode(self, setting: Setting, step: Step, memory: Mixed) -> int | None:
        """The mode of least cost; None where there is none but that of the step before."""
        impacts = self.I_step, self.I_cfg, *self._block_impacts(step)
        costs = {
            mode: math.inf if math.isnan(cost := change * impact) else cost
            for mode, (change, impact) in enumerate(zip(memory.changes, impacts, strict=True))
            if mode != memory.before and (mode != CFG or setting.passes == 2)
        }
        return min(costs, key=lambda mode: (costs[mode], mode), default=None)

    def _block_impacts(self, step: Step) -> tuple[float, ...]:
        levels = len(self._of_blocks)
        if len(self.I_block) == 1:
            return self.I_block * levels
        start = step.index * levels if len(self.I_block) > levels else 0
        return self.I_block[start : start + levels]


def _plan(setting: Setting, mode: int | None, watch: tuple[Probe, ...]) -> StepPlan:
    """The plan of a cached step, or of a full one (None); what is computed whole is kept."""
    of_blocks = [Act.KEEP if mode in (None, CFG) else Act.RUN] * (setting.slots - BLOCKS)
    if mode is not None and mode >= BLOCKS:
        of_blocks[mode - BLOCKS] = Act.STAND_IN
    velocity = Act.STAND_IN if mode == STEP else Act.KEEP
    guidance = {None: Act.KEEP, STEP: Act.RUN}.get(mode, Act.STAND_IN)
    first = velocity, Act.KEEP if mode is None else Act.RUN, *of_blocks
    second = velocity, guidance, *[Act.RUN] * len(of_blocks)
    label = FULL if mode is None else BY_LEVEL[min(mode, BLOCKS)]
    return StepPlan((first, second)[: setting.passes], label, watch)
