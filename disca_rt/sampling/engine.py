"""The only denoising loop: at every step the rule plans, the sampler computes, the latents move on.

It knows neither checkpoints nor prompts nor files. What a rule remembers are frozen values that
move on once a step is over, so that a draft that is given up leaves no trace.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.plan import Ask, Draft, Measured, Probe, Setting, StepPlan
from ..cache.policy import check_plan
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.prepared import Prepared
from ..schedule import Step
from .guidance import StepTable
from .passes import Begun
from .sampler import Look, Outcome, Sampler, StepTensors
from .state import KeptAt, kept_after, known_numbers, nothing_kept, numbers


class Cancelled(RuntimeError):
    """A sample was cancelled between two steps."""


class StepEvent(NamedTuple):
    """The argument of a callback after each step; `latents` is the live tensor: clone to keep it.

    `kind` is the label of the step's plan, such as "full" or "predicted".
    """

    step: Step
    steps: int
    kind: str
    latents: Tensor


class Moved(NamedTuple):
    """Values that move on from step to step besides the latents, all of them frozen."""

    memory: Any  # the rule's
    kept_at: KeptAt
    compared: frozenset[Probe] = frozenset()  # probes that have something to compare with


class Loop:
    """The steps of one sample. `prepared` are the conditionings of its passes."""

    def __init__(
        self,
        sampler: Sampler,
        setting: Setting,
        table: StepTable,
        prepared: Sequence[Prepared],
        graphs: GraphRunner | None,
    ) -> None:
        self._sampler, self._policy, self._rule = sampler, sampler.policy, sampler.policy.rule
        self._sharding, self._mark = sampler.forward.sharding, sampler.mark
        self.setting, self.table = setting, table
        self._prepared, self._graphs = tuple(prepared), graphs
        self._device = table.dt.device
        self.plans = self._policy.known_plans(setting)
        self._rows = None if self.plans is None else self._known_numbers(self.plans)

    def run(
        self,
        latents: Tensor,
        stopwatch: Stopwatch,
        on_step: Callable[[StepEvent], None] | None,
        cancel: threading.Event | None,
    ) -> Tensor:
        """The clean latents. Raises `Cancelled` when `cancel` is set between steps.

        With graphs the steps are captured and replayed, and where nobody looks in between and all
        plans are known, the whole trajectory is.
        """
        is_watched = on_step is not None or cancel is not None or self._sharding.size > 1
        if self._graphs is not None and self.plans is not None and not is_watched:
            return self._trajectory(self._graphs, self.plans, latents, stopwatch)
        passes = len(self._prepared)
        moved = Moved(self._rule.start(self.setting), nothing_kept(self._policy, passes))
        steps = len(self.setting.steps)
        for step in self.setting.steps:
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"cancelled before step {step.index} of {steps}")
            started = stopwatch.start()
            with self._mark(f"step {step.index}"):
                plan, latents, moved = self._step(step, latents, moved)
            stopwatch.stop(f"{plan.label} steps", started)
            if on_step is not None:
                on_step(StepEvent(step, steps, plan.label, latents))
        return latents if self._graphs is None else latents.clone()

    def _trajectory(
        self,
        graphs: GraphRunner,
        plans: tuple[StepPlan, ...],
        latents: Tensor,
        stopwatch: Stopwatch,
    ) -> Tensor:
        started = stopwatch.start()
        latents = graphs.run(
            ("trajectory", plans, self._sampler.key()),
            partial(self._sampler.trajectory, plans),
            latents,
            self.table,
            self._rows,
            bound=self._prepared,
            depends_on=self._sampler.depends_on,
        )
        stopwatch.stop(f"{len(plans)} steps", started)
        return latents.clone()  # its memory is the next sample's

    def _step(self, step: Step, latents: Tensor, moved: Moved) -> tuple[StepPlan, Tensor, Moved]:
        """The plan of a step, the latents after it, and what moves on."""
        tensors = StepTensors(latents, self.table.row(step.index), self._numbers(step, moved))
        if self.plans is not None:
            plan = self.plans[step.index]
            latents = self.compute(plan, {}, tensors).latents
            return plan, latents, moved  # nothing that moves on is asked for again
        return _Deciding(self, step, tensors, moved).run()

    def compute(self, plan: StepPlan, begun: dict[int, Begun], tensors: StepTensors) -> Outcome:
        """A step by `plan`, captured where there are graphs; `begun` are passes under way."""
        key = plan.passes, plan.watch, tuple(sorted(begun))
        return self._piece(key, partial(self._sampler.run, plan), begun, tensors)

    def tensors(self, index: int, latents: Tensor, kept_at: tuple[int, ...]) -> StepTensors:
        """The inputs of step number `index` alone, as if every slot was kept at `kept_at`."""
        of_slots = (kept_at,) * len(self._policy.slots)
        moved = Moved(None, (of_slots,) * len(self._prepared))
        return StepTensors(latents, self.table.row(index), self._row(index, moved))

    def _piece(self, key: Any, compute: Callable[..., Any], *inputs: Any) -> Any:
        """A piece of a step, captured where there are graphs."""
        if self._graphs is None:
            return compute(*inputs, self._prepared)
        return self._graphs.run(
            (key, self._sampler.key()),
            compute,
            *inputs,
            bound=self._prepared,
            depends_on=self._sampler.depends_on,
        )

    def _known_numbers(self, plans: tuple[StepPlan, ...]) -> Tensor | None:
        """The slots' scalars of every step, on the device before the first one."""
        rows = known_numbers(self._policy, plans)
        if not rows[0]:
            return None
        return torch.tensor(rows, dtype=torch.float32, device=self._device)

    def _numbers(self, step: Step, moved: Moved) -> Tensor | None:
        if self.plans is not None:
            return None if self._rows is None else self._rows[step.index]
        return self._row(step.index, moved)

    def _row(self, index: int, moved: Moved) -> Tensor | None:
        row = numbers(self._policy, moved.kept_at, index)
        return torch.tensor(row, dtype=torch.float32, device=self._device) if row else None


class _Deciding:
    """One step whose plan depends on what is measured."""

    def __init__(self, loop: Loop, step: Step, tensors: StepTensors, moved: Moved) -> None:
        self._loop, self._step, self._tensors, self._moved = loop, step, tensors, moved
        self._begun: dict[int, Begun] = {}
        self._seen: dict[Probe, Measured] = {}
        self._now: dict[Probe, Tensor] = {}

    def run(self) -> tuple[StepPlan, Tensor, Moved]:
        """Asks the rule until it answers with a plan; see `Loop._step`."""
        loop, moved = self._loop, self._moved
        drafted: tuple[StepPlan, Tensor] | None = None
        while not isinstance(answer := self._decide(), StepPlan):
            if isinstance(answer, Ask):
                self._ask(answer.probe)
            else:
                drafted = answer.plan, self._draft(answer)
        if drafted is not None and drafted[0].passes == answer.passes:
            plan, latents = drafted
        else:
            plan, latents = answer, self._compute(answer)
        memory = loop._rule.remember(
            loop.setting, self._step, answer, dict(self._seen), moved.memory
        )
        kept_at = kept_after(moved.kept_at, plan, self._step.index)
        return plan, latents, Moved(memory, kept_at, self._commit(plan))

    def _decide(self) -> StepPlan | Ask | Draft:
        loop, moved = self._loop, self._moved
        answer = loop._rule.decide(loop.setting, self._step, dict(self._seen), moved.memory)
        asked = [answer.probe] if isinstance(answer, Ask) else _plan_of(answer).watch
        for probe in asked:
            if probe not in loop._rule.probes:
                raise ValueError(
                    f"policy {loop._policy.name} measures {probe}, which is none of the probes "
                    f"that its rule declares: {list(loop._rule.probes)}"
                )
        if isinstance(answer, Ask) and answer.probe in self._seen:
            raise ValueError(f"policy {loop._policy.name} asks for {answer.probe} twice in a step")
        return answer

    def _ask(self, probe: Probe) -> None:
        loop, number = self._loop, probe.which_pass
        ask = partial(loop._sampler.ask, probe)
        inputs = self._begun.get(number), self._tensors
        begun, look = loop._piece(("ask", probe), ask, *inputs)
        if begun is not None:
            self._begun[number] = begun
        self._see((probe,), (look,))

    def _draft(self, draft: Draft) -> Tensor:
        if draft.plan.keeps():
            raise ValueError(f"policy {self._loop._policy.name}: a draft must keep nothing")
        # The latents may be in memory that the draft's capture writes.
        self._tensors = self._tensors._replace(latents=self._tensors.latents.clone())
        return self._compute(draft.plan)

    def _compute(self, plan: StepPlan) -> Tensor:
        loop, kept_at = self._loop, self._moved.kept_at
        kept = {
            (number, slot)
            for number, of_slots in enumerate(kept_at)
            for slot, steps in enumerate(of_slots)
            if steps
        }
        check_plan(loop._policy, loop.setting, self._step.index, plan, kept)
        if plan.keeps():
            plan = plan._replace(watch=plan.watch + self._kept_probes(plan))
        outcome = loop.compute(plan, self._begun, self._tensors)
        self._see(plan.watch, outcome.looks)
        return outcome.latents

    def _kept_probes(self, plan: StepPlan) -> tuple[Probe, ...]:
        """Probes that compare with the last kept step, and have not been measured in this one."""
        known = {*self._now, *plan.watch}
        probes = self._loop._rule.probes
        return tuple(p for p in probes if p.against == "kept" and p not in known)

    def _see(self, probes: Sequence[Probe], looks: Sequence[Look]) -> None:
        """Adds what was measured, over all ranks: one exchange, and one wait for the device."""
        if not probes:
            return
        sums = self._loop._sharding.total(torch.stack([look.sums for look in looks])).tolist()
        nothing = float("nan"), float("nan")
        for probe, look, both in zip(probes, looks, sums, strict=True):
            is_compared = probe.against == "stand-in" or probe in self._moved.compared
            self._seen[probe] = Measured(*(both if is_compared else nothing))
            if look.now is not None:
                self._now[probe] = look.now

    def _commit(self, plan: StepPlan) -> frozenset[Probe]:
        """Stores what later steps compare with; returns the probes that have something stored."""
        compared = self._moved.compared
        for probe, now in self._now.items():
            if probe.against == "previous" or plan.keeps():
                self._loop._sampler.state.probes[probe].copy_(now)
                compared |= {probe}
        return compared


def _plan_of(answer: StepPlan | Draft) -> StepPlan:
    return answer.plan if isinstance(answer, Draft) else answer
