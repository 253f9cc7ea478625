"""Foresight's rule: after a warm-up the longest prefix of blocks that has changed little is reused.

As its code has it (STAR-Laboratory/foresight, CogVideoX). The paper lets each layer decide for
itself, by a weighted sum over three warm-up steps, where the code takes the last one.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ...config import DiTConfig
from ...schedule import Step
from ..options import check_int, check_number
from ..plan import Act, Probe, Seen, Setting, StepPlan, labelled
from ..rule import RuleDefaults


class Changes(NamedTuple):
    """The last change of each block's output, Σ(h − h_kept)², and how much is little."""

    last: tuple[float, ...] = ()
    allowed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Foresight(RuleDefaults):
    """Slot l is the output of block l, of which the conditional pass decides for both.

    The first `warmup` steps are full. The change λ in the last of them, times `threshold` (the
    paper's γ), is little. Later every `recalculate`-th step is full. In the others the kept output
    of the last block whose change was little stands in for all blocks up to it, the blocks behind
    it run, and their changes are measured. Rows are image and text together (choice: the code
    measures the image's alone).
    """

    config: DiTConfig
    warmup: int = 8
    recalculate: int = 2
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_int("warmup", self.warmup, 2)  # two outputs make a change
        check_int("recalculate", self.recalculate, 1)
        check_number("threshold", self.threshold, 0)

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        blocks = self.config.double + self.config.single
        return tuple(Probe("slot", "stand-in", norm="l2", slot=block) for block in range(blocks))

    def start(self, setting: Setting) -> Changes:
        return Changes()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Changes) -> StepPlan:
        if step.index < self.warmup - 2:
            return labelled(((Act.RUN,) * setting.slots,) * setting.passes)
        reused = self._reused(step.index, memory)
        skipped = (*(Act.RUN,) * (reused - 1), Act.STAND_IN) if reused else ()
        acts = (*skipped, *(Act.KEEP,) * (setting.slots - reused))
        watch = self.probes[reused:] if step.index >= self.warmup - 1 else ()
        return labelled((acts,) * setting.passes, watch)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Changes
    ) -> Changes:
        if step.index < self.warmup - 1:
            return memory
        changes = zip(self.probes, memory.last or (0.0,) * setting.slots, strict=True)
        last = tuple(seen[p].numerator if p in seen else before for p, before in changes)
        allowed = memory.allowed or tuple(self.threshold * change for change in last)
        return Changes(last, allowed)

    def _reused(self, step: int, memory: Changes) -> int:
        """The number of first blocks whose last output is used again."""
        if step < self.warmup or step % self.recalculate == 0:
            return 0
        pairs = enumerate(zip(memory.last, memory.allowed, strict=True), start=1)
        return max((number for number, (last, allowed) in pairs if last <= allowed), default=0)
