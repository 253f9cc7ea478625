"""Rules of the tests: one of each way to decide that no policy of the table takes yet."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from disca_rt.cache.plan import Act, Answer, Ask, Draft, Probe, Seen, Setting, StepPlan
from disca_rt.cache.rule import RuleDefaults
from disca_rt.schedule import Step


class Since(NamedTuple):
    """The change since the last full step, and whether there was one."""

    total: float = 0.0
    has_kept: bool = False


@dataclass(frozen=True)
class Measuring(RuleDefaults):
    """Full where the changes of a probe, asked for before the step, have added up to `threshold`.

    As TeaCache with "modulated", EasyCache with "latents"; in the middle of the step, as DBCache,
    with "residual" after `probe.after` blocks.
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
class Verified(RuleDefaults):
    """Drafts every step but the first, and keeps it where a check is within `threshold` (SpeCa).

    With a threshold of 0 every draft is given up, with an infinite one none is.
    """

    threshold: float
    slot: int = 0

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (Probe("slot", "stand-in", norm="l2", slot=self.slot),)

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


@dataclass(frozen=True)
class TwoParts(RuleDefaults):
    """Decides for slot 0, then, under that, for slot 1 further on (cache-dit's DBCache on 1.0)."""

    blocks: tuple[int, int]
    threshold: float

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(Probe("residual", "kept", after=block) for block in self.blocks)

    def start(self, setting: Setting) -> None:
        return None

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> Answer:
        acts = [self.act(seen, probe) for probe in self.probes]
        plans = [StepPlan(((acts[0], Act.RUN),) * setting.passes)]
        plans.append(StepPlan((tuple(acts),) * setting.passes))
        first, second = self.probes
        if first not in seen:
            return Ask(first)
        return plans[1] if second in seen else Ask(second, under=plans[0])

    def act(self, seen: Seen, probe: Probe) -> Act:
        is_small = probe in seen and seen[probe].ratio < self.threshold
        return Act.STAND_IN if is_small else Act.KEEP

    def remember(self, setting, step, plan, seen, memory) -> None:
        return None


@dataclass(frozen=True)
class Watching(RuleDefaults):
    """Keeps every slot at every step and hands what it watches to `seen`."""

    probes: tuple[Probe, ...]
    seen: list[dict[Probe, float]]

    def __hash__(self) -> int:
        return hash(self.probes)

    def start(self, setting: Setting) -> None:
        return None

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> Answer:
        return setting.uniform(Act.KEEP, "full", self.probes)

    def remember(self, setting, step, plan, seen, memory) -> None:
        self.seen.append({probe: measured.ratio for probe, measured in seen.items()})


@dataclass(frozen=True)
class Giving(RuleDefaults):
    """Predicts with the step's index as a scalar for the stand-ins."""

    gives: ClassVar[str] = "index"
    probes: tuple[Probe, ...] = ()

    def start(self, setting: Setting) -> None:
        return None

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> Answer:
        plan = setting.predicted if step.index else setting.full
        return plan._replace(given=(float(step.index),))

    def remember(self, setting, step, plan, seen, memory) -> None:
        return None
