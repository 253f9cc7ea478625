"""Rules of the tests: one of each way to decide that no policy of the table takes yet."""

from dataclasses import dataclass
from typing import NamedTuple

from disca_rt.cache.plan import Act, Answer, Ask, Draft, Probe, Seen, Setting, StepPlan
from disca_rt.schedule import Step


class Since(NamedTuple):
    """The change since the last full step, and whether there was one."""

    total: float = 0.0
    has_kept: bool = False


@dataclass(frozen=True)
class Measuring:
    """Full where the changes of a probe, asked for before the step, have added up to `threshold`.

    As TeaCache with "modulated", EasyCache with "latents"; in the middle of the step, as DBCache,
    with "residual" after `probe.block` blocks.
    """

    probe: Probe
    threshold: float

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (self.probe,)

    def start(self, setting: Setting) -> Since:
        return Since()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Since) -> Answer:
        if self.probe not in seen:
            return Ask(self.probe)
        is_small = memory.total + seen[self.probe].ratio < self.threshold  # not where it is NaN
        return setting.predicted if memory.has_kept and is_small else setting.full

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Since
    ) -> Since:
        return Since(0.0 if plan.keeps() else memory.total + seen[self.probe].ratio, True)


@dataclass(frozen=True)
class Verified:
    """Drafts every step but the first, and keeps it where a check is within `threshold` (SpeCa).

    With a threshold of 0 every draft is given up, with an infinite one none is.
    """

    threshold: float
    slot: int = 0

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (Probe("slot", "stand-in", "l2", self.slot),)

    def start(self, setting: Setting) -> bool:
        return False

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: bool) -> Answer:
        draft = setting.uniform(Act.CHECK, "predicted", self.probes)
        if not memory:
            return setting.full
        if not seen:
            return Draft(draft)
        return draft if seen[self.probes[0]].ratio < self.threshold else setting.full

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: bool
    ) -> bool:
        return True
