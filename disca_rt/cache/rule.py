"""The protocol of rules: pure functions of scalars that plan a sample's steps. Host only.

A rule sees the steps' noise levels and the probes that it declares, and no tensors, weights or
ranks, so all ranks decide alike. Rules are frozen dataclasses; their fields are the options that a
user may set.
"""

from typing import Protocol, TypeVar

from ..schedule import Step
from .plan import Answer, Probe, Seen, Setting, StepPlan

Memory = TypeVar("Memory")


class Rule(Protocol[Memory]):
    """Plans each step of a sample. `probes`: all that it may ask for or watch.

    Those of a pass that a sample does not have are left out there, and must not be asked for.
    One with probes of a "score" also has `head(step, slot)`, the linear head `[C]` that makes it;
    one with probes of "wanted" has `network`, a `decision_network.Network`, and only watches it.
    One whose plans have scalars for stand-ins has `gives`, a word for what these are.
    Without probes every plan is known before the first step: `decide` answers with a `StepPlan`.
    """

    probes: tuple[Probe, ...]

    def start(self, setting: Setting) -> Memory:
        """The memory before the first step, frozen; ValueError where options do not fit."""

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Memory) -> Answer:
        """The plan of `step`, or what must be seen first; called again when it has been."""

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Memory
    ) -> Memory:
        """The memory after `step`, which ran by `plan`; `seen` is all that was measured in it."""


def gives(rule: Rule | type[Rule]) -> str:
    """The word for the scalars in a rule's plans; "" of one whose plans have none."""
    return getattr(rule, "gives", "")


def known_plans(rule: Rule, setting: Setting) -> tuple[StepPlan, ...] | None:
    """The plans of all steps, or None where they depend on what will be measured."""
    memory = rule.start(setting)
    if rule.probes:
        return None
    plans = []
    for step in setting.steps:
        plan = rule.decide(setting, step, {}, memory)
        if not isinstance(plan, StepPlan):
            raise ValueError(f"{rule} declares no probes, and answers {plan}; declare what it asks")
        memory = rule.remember(setting, step, plan, {}, memory)
        plans.append(plan)
    return tuple(plans)


class Planned:
    """A base for rules that plan all steps before the first one, in `plans`.

    `plans(setting)` gives them in order; ValueError where options do not fit.
    """

    probes: tuple[Probe, ...] = ()

    def start(self, setting: Setting) -> tuple[StepPlan, ...]:
        """The plans of all steps."""
        return self.plans(setting)

    def decide(
        self, setting: Setting, step: Step, seen: Seen, memory: tuple[StepPlan, ...]
    ) -> StepPlan:
        """The plan that was made for `step`."""
        return memory[step.index]

    def remember(
        self,
        setting: Setting,
        step: Step,
        plan: StepPlan,
        seen: Seen,
        memory: tuple[StepPlan, ...],
    ) -> tuple[StepPlan, ...]:
        """The same plans."""
        return memory


class Memoryless:
    """A base for rules whose plans depend on nothing but the step: they declare no probes."""

    probes: tuple[Probe, ...] = ()

    def start(self, setting: Setting) -> None:
        """None: it remembers nothing."""

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: None
    ) -> None:
        """None: it remembers nothing."""
