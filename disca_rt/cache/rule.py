"""The protocol of rules: pure functions of scalars that plan a sample's steps. Host only.

A rule sees the steps' noise levels and the probes that it declares, and no tensors, weights or
ranks, so all ranks decide alike. Rules are frozen dataclasses; their fields are the options that a
user may set.
"""

from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from ..schedule import Step
from .decision_network import Network
from .plan import Answer, Probe, Seen, Setting, StepPlan

Memory = TypeVar("Memory")


class Rule(Protocol[Memory]):
    """Plans each step of a sample; `RuleDefaults` has what most rules have.

    `probes` are all that it may ask for or watch; those of a pass that a sample does not have are
    left out there, and must not be asked for. Without probes every plan is known before the first
    step: `decide` answers with a `StepPlan`.
    """

    probes: tuple[Probe, ...]
    gives: str  # a word for the scalars for stand-ins in its plans; "" where they have none
    network: Network | None  # what makes the numbers of probes of "wanted", which it only watches
    fitted_in: str | None  # the calibration's table with options that are left out
    fitted: tuple[str, ...]  # those options
    fitted_unless: tuple[str, ...]  # options that say otherwise what that table does

    def head(self, step: int, slot: int) -> Tensor:
        """The linear head `[C]` that makes the "score" of a slot; asked for such probes only."""

    def start(self, setting: Setting) -> Memory:
        """The memory before the first step, frozen; ValueError where options do not fit."""

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Memory) -> Answer:
        """The plan of `step`, or what must be seen first; called again when it has been."""

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Memory
    ) -> Memory:
        """The memory after `step`, which ran by `plan`; `seen` is all that was measured in it."""


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


class RuleDefaults:
    """A base for all rules: what those have that say nothing else, but for `probes`.

    No scalars for stand-ins, no learned head or network, nothing of a calibration.
    """

    gives: ClassVar[str] = ""
    network: Network | None = None
    fitted_in: ClassVar[str | None] = None
    fitted: ClassVar[tuple[str, ...]] = ()
    fitted_unless: ClassVar[tuple[str, ...]] = ()

    def head(self, step: int, slot: int) -> Tensor:
        raise AssertionError(f"{type(self).__name__} has no heads, and declares no score")


class Planned(RuleDefaults):
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


class Memoryless(RuleDefaults):
    """A base for rules that remember nothing: a plan depends on the step, and on its probes."""

    probes: tuple[Probe, ...] = ()

    def start(self, setting: Setting) -> None:
        """None: it remembers nothing."""

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: None
    ) -> None:
        """None: it remembers nothing."""
