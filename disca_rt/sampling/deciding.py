"""One step whose plan depends on what is measured: ask, draft, and at last run.

Nothing moves on before the step is over, so that a draft that is given up leaves no trace.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..cache.plan import Ask, Draft, Measured, Probe, StepPlan, Stored
from ..cache.policy import check_plan
from ..cache.site import IN_BLOCKS
from ..schedule import Step
from .passes import Begun
from .state import KeptAt, kept_after
from .step_tensors import Look, StepTensors

if TYPE_CHECKING:
    from .loop import Loop


class Moved(NamedTuple):
    """Values that move on from step to step besides the latents; none is changed in place."""

    memory: Any  # the rule's
    kept_at: KeptAt
    stored: Counter[Stored]  # steps in which a tensor to compare with was stored


class _Drafted(NamedTuple):
    """A draft that has run: the latents after it, and what its probes saw."""

    plan: StepPlan
    latents: Tensor
    now: dict[Probe, Tensor]


class Deciding:
    """One step whose plan depends on what is measured."""

    def __init__(self, loop: "Loop", step: Step, tensors: StepTensors, moved: Moved) -> None:
        self._loop, self._step, self._tensors, self._moved = loop, step, tensors, moved
        self._begun: dict[int, Begun] = {}
        self._under: dict[int, StepPlan] = {}  # by which blocks of a pass ran before a probe
        self._probed: dict[int, int] = {}  # blocks of a pass that ran before a probe by no plan
        self._seen: dict[Probe, Measured] = {}
        self._now: dict[Probe, Tensor] = {}

    def run(self) -> tuple[StepPlan, Tensor, Moved]:
        """Asks the rule until it answers with a plan; returns what `Loop._step` does."""
        loop, moved = self._loop, self._moved
        drafted: _Drafted | None = None
        drafts: list[StepPlan] = []
        while not isinstance(answer := self._decide(), StepPlan):
            if isinstance(answer, Ask):
                self._ask(answer)
            else:
                drafted = self._draft(answer)
                drafts.append(drafted.plan)
        if drafted is not None and drafted.plan.decisive == answer.decisive:
            plan, latents = drafts.pop(), drafted.latents
            self._now |= drafted.now
        else:  # what was seen of a draft is nothing to compare with
            plan, latents = answer, self._compute(answer, self._now)
        memory = loop.rule.remember(
            loop.setting, self._step, answer, dict(self._seen), moved.memory
        )
        kept_at = kept_after(moved.kept_at, plan, self._step.index)
        passes = range(loop.setting.passes)
        probed = tuple(map(self._probed.get, passes))
        plan = plan._replace(probed=probed, given_up=tuple(drafts))
        return plan, latents, Moved(memory, kept_at, self._commit(plan))

    def _decide(self) -> StepPlan | Ask | Draft:
        loop, moved = self._loop, self._moved
        answer = loop.rule.decide(loop.setting, self._step, dict(self._seen), moved.memory)
        asked = [answer.probe] if isinstance(answer, Ask) else _plan_of(answer).watch
        for probe in asked:
            if probe.which_pass >= loop.setting.passes:
                raise ValueError(
                    f"policy {loop.policy.name}: which_pass of {probe} must be from 0 to "
                    f"{loop.setting.passes - 1}, the passes of this sample"
                )
            if probe not in loop.rule.probes:
                raise ValueError(
                    f"policy {loop.policy.name} measures {probe}, which is none of the probes "
                    f"that its rule declares: {list(loop.rule.probes)}"
                )
        if isinstance(answer, Ask) and answer.probe in self._seen:
            raise ValueError(f"policy {loop.policy.name} asks for {answer.probe} twice in a step")
        return answer

    def _ask(self, ask: Ask) -> None:
        loop, (probe, under) = self._loop, ask
        if under is not None:
            self._check(under)
            self._under[probe.which_pass] = under
        key = "ask", probe, None if under is None else under.passes[probe.which_pass]
        tensors = self._with_numbers(under)
        if probe.of == "score":
            head = loop.rule.head(self._step.index, probe.slot)
            tensors = tensors._replace(head=head.to(tensors.latents.device))
        begun = self._begun.get(probe.which_pass)
        begun, look = loop.piece(key, partial(loop.sampler.ask, ask), begun, tensors)
        if begun is not None:
            self._begun[probe.which_pass] = begun
            if under is None:
                self._probed[probe.which_pass] = begun.done
        self._see((probe,), (look,), self._now)

    def _draft(self, draft: Draft) -> _Drafted:
        if draft.plan.changes():
            raise ValueError(f"policy {self._loop.policy.name}: a draft must keep nothing")
        # The latents may be in memory that the draft's capture writes.
        self._tensors = self._tensors._replace(latents=self._tensors.latents.clone())
        now: dict[Probe, Tensor] = {}
        latents = self._compute(draft.plan, now)
        # The captures of what is asked next may write into the draft's memory.
        return _Drafted(draft.plan, latents.clone(), {p: each.clone() for p, each in now.items()})

    def _compute(self, plan: StepPlan, now: dict[Probe, Tensor]) -> Tensor:
        """The latents after a step by `plan`; what its probes see goes into `now`."""
        self._check(plan)
        if plan.keeps():
            plan = plan._replace(watch=plan.watch + self._kept_probes(plan))
        tensors = self._with_numbers(plan)
        if plan.scale != 1:
            tensors = tensors._replace(row=tensors.row.scaled(plan.scale))
        if any(probe.of == "wanted" for probe in plan.watch):
            network = self._loop.rule.network.to(tensors.latents.device)
            tensors = tensors._replace(network=network)
        outcome = self._loop.compute(plan, self._begun, tensors)
        self._see(plan.watch, outcome.looks, now)
        return outcome.latents

    def _check(self, plan: StepPlan) -> None:
        loop = self._loop
        kept = {
            (which_pass, slot)
            for which_pass, of_slots in enumerate(self._moved.kept_at)
            for slot, steps in enumerate(of_slots)
            if steps
        }
        check_plan(loop.policy, loop.setting, self._step.index, plan, kept)
        for which_pass, under in self._under.items():
            begun = self._begun.get(which_pass)
            if begun is None or not begun.is_under:
                continue
            for slot, (site, _) in enumerate(loop.policy.slots):
                is_run = site.level in ("blocks", *IN_BLOCKS) and site.start < begun.done
                is_over = is_run and (site.level in IN_BLOCKS or site.stop <= begun.done)
                if is_over and plan.passes[which_pass][slot] != under.passes[which_pass][slot]:
                    raise ValueError(
                        f"policy {loop.policy.name}: slot {slot} acted in blocks before a probe, "
                        "and the plan has another act for it; let it be the same"
                    )

    def _with_numbers(self, plan: StepPlan | None) -> StepTensors:
        numbers = self._loop.numbers(self._step.index, self._moved, plan)
        return self._tensors._replace(numbers=numbers)

    def _kept_probes(self, plan: StepPlan) -> tuple[Probe, ...]:
        """Probes that compare with the last kept step, and have not been measured in this one."""
        missing: dict[Stored, Probe] = {}
        for probe in self._loop.policy.probes(self._loop.setting.passes):
            tensor = probe.stored
            if tensor and tensor.when == "kept" and tensor.is_renewed(plan):
                missing.setdefault(tensor, probe)
        for probe in (*self._now, *plan.watch):
            missing.pop(probe.stored, None)
        return tuple(missing.values())

    def _see(
        self, probes: Sequence[Probe], looks: Sequence[Look], now: dict[Probe, Tensor]
    ) -> None:
        """Adds what was measured, over all ranks: one exchange, and one wait for the device."""
        if not probes:
            return
        ranks = self._loop.sharding.size
        shares = [
            look.sums / ranks if self._is_whole(probe) else look.sums  # each rank adds its share
            for probe, look in zip(probes, looks, strict=True)
        ]
        sums = self._loop.sharding.total(torch.stack(shares)).tolist()
        nothing = float("nan"), float("nan")
        for probe, look, both in zip(probes, looks, sums, strict=True):
            self._seen[probe] = Measured(*(both if self._is_compared(probe) else nothing))
            if look.now is not None:
                now[probe] = look.now

    def _is_whole(self, probe: Probe) -> bool:
        """True where every rank has the whole tensor that a probe looks at."""
        if probe.norm in ("motion", "moving"):
            return True
        if probe.of == "slot":
            return self._loop.policy.slots[probe.slot].site.level in ("guidance", "velocity")
        return probe.of in ("latents", "patches", "velocity", "wanted")

    def _is_compared(self, probe: Probe) -> bool:
        """True where there is something to compare with."""
        if probe.stored is not None:
            return self._moved.stored[probe.stored] > (probe.against == "before")
        if probe.of == "slot":
            return bool(self._moved.kept_at[probe.which_pass][probe.slot])
        return True

    def _commit(self, plan: StepPlan) -> Counter[Stored]:
        """Stores what later steps compare with; returns how often each has been stored."""
        now = {probe.stored: tensor for probe, tensor in self._now.items()}
        renewed = [stored for stored in now if stored.is_renewed(plan)]
        for stored in renewed:
            buffers = self._loop.sampler.state.probes[stored]
            for older, newer in zip(reversed(buffers[1:]), reversed(buffers[:-1]), strict=True):
                older.copy_(newer)
            buffers[0].copy_(now[stored])
        return self._moved.stored + Counter(renewed)


def _plan_of(answer: StepPlan | Draft) -> StepPlan:
    return answer.plan if isinstance(answer, Draft) else answer
