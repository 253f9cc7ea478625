"""The pieces of a step, each a function of tensors that a graph may capture.

A step whose plan is known is one piece: both passes, guidance and the Euler step. A rule that looks
at tokens first cuts it after some blocks: one piece up to there, one for the rest. Knows the forms
of plans and probes, no rules.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..cache.plan import Act, Ask, Probe, StepPlan
from ..cache.policy import Policy
from ..models.prepared import Prepared
from ..tokens import StepContext
from .ahead import Ahead
from .forward import Forward
from .guidance import StepTable
from .passes import Begun, run_middle
from .probes import moving, score, sums, tensor_of_pass, wanted
from .slots import Looked, SlotsOfPass
from .state import SampleState, number_counts, numbers_of_pass
from .step_tensors import Look, Outcome, StepTensors

Mark = Callable[[str], AbstractContextManager]
"""Names what is done within, for a profiler."""


def no_mark(name: str) -> AbstractContextManager:
    """Marks nothing."""
    return nullcontext()


class Sampler:
    """The pieces of the steps of one sample, by one policy.

    They depend on their arguments, on `key`, and on the objects in `depends_on`: the model's
    weights, and the state's buffers, which belong to one policy. `scale` is of classifier-free
    guidance.
    """

    def __init__(
        self,
        forward: Forward,
        policy: Policy,
        state: SampleState,
        scale: float | None,
        mark: Mark = no_mark,
    ) -> None:
        self.forward, self.policy, self.state, self.mark = forward, policy, state, mark
        self._dit = forward.dit
        self._blocks = self._dit.blocks
        self._scale = 1.0 if scale is None else scale
        self._counts = number_counts(policy)
        self._has_velocity = bool(policy.slots_at("velocity"))
        self.depends_on = self._dit, state

    def key(self) -> Hashable:
        """A hashable for all that pieces depend on besides arguments and `depends_on`."""
        return self._scale

    def run(
        self,
        plan: StepPlan,
        begun: Mapping[int, Begun],
        tensors: StepTensors,
        prepared: Sequence[Prepared],
    ) -> Outcome:
        """A step by `plan`; `begun` are passes under way, by number."""
        step = _Step(self, plan, begun, tensors, prepared)
        if self._has_velocity or any(probe.of == "velocity" for probe in plan.watch):
            velocity = step.level("velocity", 0, step.velocity, tensors.latents)
            latents = tensors.latents + velocity * tensors.row.dt
        else:
            velocity, patches = None, step.patches()
            latents = self._euler(tensors.latents, patches, tensors.row.dt, prepared)
        if prepared[0].first is not None:
            latents = prepared[0].first.hold(latents)
        if prepared[0].edit is not None:
            latents = prepared[0].edit.hold(latents, tensors.row.sigma_next)
        looks = tuple(step.look(probe, velocity, latents) for probe in plan.watch)
        return Outcome(latents, looks)

    def trajectory(
        self,
        plans: Sequence[StepPlan],
        latents: Tensor,
        table: StepTable,
        numbers: Tensor | None,
        prepared: Sequence[Prepared],
    ) -> Tensor:
        """The latents after all steps; `numbers` has the slots' scalars of each."""
        ahead = Ahead(self._dit, table, prepared)
        for i, plan in enumerate(plans):
            row = None if numbers is None else numbers[i]
            tensors = StepTensors(latents, ahead.row(i), row)
            latents = self.run(plan, {}, tensors, prepared).latents
        return latents

    def ask(
        self,
        ask: Ask,
        begun: Begun | None,
        tensors: StepTensors,
        prepared: Sequence[Prepared],
    ) -> tuple[Begun | None, Look]:
        """Measures a probe, running its pass as far as needed; returns the pass and the sums."""
        probe, under = ask
        if probe.of == "latents":
            return None, self.compare(probe, tensors.latents, None)
        begun = begun or self.embed(probe.which_pass, tensors, prepared)
        of_pass: SlotsOfPass | None = None
        if probe.of != "modulated" and probe.after < begun.done:
            raise ValueError(f"{probe} looks at block {probe.after}, after {begun.done} have run")
        if probe.after > begun.done:
            plan = under or StepPlan(((Act.RUN,) * len(self._counts),) * len(prepared))
            of_pass = self.slots_of_pass(probe.which_pass, plan, tensors.numbers, prepared)
            notes = (probe.since,) if probe.since else ()
            tokens = run_middle(self._blocks[: probe.after], begun, of_pass, notes)
            begun = begun._replace(tokens=tokens, done=probe.after, is_under=under is not None)
            of_pass.looked.tokens[probe.after] = tokens
        if probe.of == "score":
            return begun, self._score(probe, begun, tensors.head)
        if of_pass is not None:
            return begun, self.look_at_tokens(probe, begun, of_pass.looked.tokens)
        return begun, self.look_at_tokens(probe, begun, {begun.done: begun.tokens})

    def _score(self, probe: Probe, begun: Begun, head: Tensor) -> Look:
        """What `head` makes of the input of a slot's branch in the block that comes next."""
        block, names = self._blocks[begun.done], self.policy.slots[probe.slot].site.names
        return Look(score(block, "img_mlp" in names, begun.tokens, begun.context, head), None)

    def embed(self, which_pass: int, tensors: StepTensors, prepared: Sequence[Prepared]) -> Begun:
        """Pass number `which_pass` before its first block."""
        timed = tensors.row.timed[which_pass]
        tokens, context = self.forward.embed_timed(tensors.latents, timed, prepared[which_pass])
        return Begun(tokens, tokens, context)

    def slots_of_pass(
        self, which_pass: int, plan: StepPlan, numbers: Tensor | None, prepared: Sequence[Prepared]
    ) -> SlotsOfPass:
        """The slots of pass number `which_pass` under `plan`."""
        looked = Looked(self.forward.sharding.gather)
        for probe in plan.watch:
            if probe.of == "slot" and probe.which_pass == which_pass:
                looked.probes[probe.slot] = (*looked.probes.get(probe.slot, ()), probe)
        acts = self.policy.acts_in(which_pass, plan.passes[which_pass])
        return SlotsOfPass(
            self.policy.slots,
            acts,
            which_pass,
            numbers_of_pass(numbers, self._counts, which_pass),
            looked,
            self.state.slots,
            self.forward.sharding,
            tuple(each.lengths for each in prepared),
            prepared[0].edit and prepared[0].edit.rows,
        )

    def look_at_tokens(self, probe: Probe, begun: Begun, tokens: Mapping[int, Tensor]) -> Look:
        """The measurement of a probe of a pass; `tokens` are those after numbers of blocks."""
        now = tensor_of_pass(probe, self._dit, {0: begun.embedded, **tokens}, begun.context)
        return self.compare(probe, now, begun.context)

    def compare(self, probe: Probe, now: Tensor, context: StepContext | None) -> Look:
        """The change of `now` against the tensor that was stored for `probe`."""
        before = self.state.compared_with(probe)
        if probe.norm == "moving":
            both = moving(probe, now, before, self.forward.sharding, context.layout)
        else:
            both = sums(probe, now, before, context)
        return Look(both, now)

    def _euler(
        self,
        latents: Tensor,
        patches: Sequence[Tensor],
        dt: Tensor,
        prepared: Sequence[Prepared],
    ) -> Tensor:
        """`latents + velocity·dt`, of the guided velocity."""
        unconditional = patches[1] if len(patches) == 2 else None
        grid, patch = prepared[0].grid, self._dit.config.patch
        return self._dit.ops.euler_step(
            latents, patches[0], unconditional, self._scale, dt, grid, patch
        )


class _Step:
    """One step under way."""

    def __init__(
        self,
        sampler: Sampler,
        plan: StepPlan,
        begun: Mapping[int, Begun],
        tensors: StepTensors,
        prepared: Sequence[Prepared],
    ) -> None:
        self._sampler, self._plan, self._begun = sampler, plan, dict(begun)
        self._tensors, self._prepared = tensors, prepared
        self._wanted: Tensor | None = None
        numbers = tensors.numbers
        self._passes = [
            sampler.slots_of_pass(i, plan, numbers, prepared) for i in range(len(prepared))
        ]

    def velocity(self) -> Tensor:
        """The guided velocity `[B, C, T, H, W]` fp32 of passes that run."""
        latents = self._tensors.latents
        one = latents.new_ones(())
        return self._sampler._euler(torch.zeros_like(latents), self.patches(), one, self._prepared)

    def patches(self) -> list[Tensor]:
        """The velocity patches of each pass."""
        first = self._run_pass(0)
        if len(self._prepared) == 1:
            return [first]
        context = self._begun[0].context
        return [first, self.level("guidance", 1, lambda: self._run_pass(1), first, context)]

    def level(
        self,
        level: str,
        which_pass: int,
        compute: Callable[[], Tensor],
        entering: Tensor,
        context: StepContext | None = None,
    ) -> Tensor:
        """The value at the slots of a level above blocks, by their acts in a pass."""
        of_pass = self._passes[which_pass]
        slots = self._sampler.policy.slots_at(level)
        for slot in slots:
            if of_pass.acts[slot] == Act.STAND_IN:
                return of_pass.use(slot, None, entering, context)
        value = compute()
        for slot in slots:
            if of_pass.acts[slot] != Act.RUN:
                value = of_pass.use(slot, lambda v=value: v, entering, context)
        return value

    def _run_pass(self, which_pass: int) -> Tensor:
        """The patches `[B, S_img, P]` of one pass."""
        sampler, of_pass = self._sampler, self._passes[which_pass]
        if which_pass not in self._begun:
            self._begun[which_pass] = sampler.embed(which_pass, self._tensors, self._prepared)
        begun = self._begun[which_pass]
        notes = tuple(
            block
            for probe in self._plan.watch
            if probe.which_pass == which_pass and probe.of in ("tokens", "image", "residual")
            for block in (probe.since, probe.after)
            if block
        )
        with sampler.mark(f"middle {self._plan.label}"):
            tokens = run_middle(sampler._blocks, begun, of_pass, notes)
        of_pass.looked.patches = sampler.forward.head(tokens, begun.context)
        return of_pass.looked.patches

    def look(self, probe: Probe, velocity: Tensor | None, after: Tensor) -> Look:
        """The measurement of a probe that is watched; `after` are the latents after the step."""
        sampler, looked = self._sampler, self._passes[probe.which_pass].looked
        if probe.of == "wanted":
            return Look(self._wanted_after(after)[probe.output], None)
        if probe.of in ("velocity", "latents"):
            now = velocity if probe.of == "velocity" else self._tensors.latents
            return sampler.compare(probe, now, None)
        if probe.of == "slot":
            if probe not in looked.sums:
                raise ValueError(f"{probe} watches a slot that computes nothing in this step")
            return Look(looked.sums[probe], None)
        if looked.patches is None:
            raise ValueError(f"{probe} watches a pass that does not run in this step")
        if probe.against == "conditional":
            return Look(sums(probe, looked.patches, self._passes[0].looked.patches, None), None)
        if probe.of == "patches":
            return sampler.compare(probe, looked.patches, None)
        begun = self._begun[probe.which_pass]
        return sampler.look_at_tokens(probe, begun, looked.tokens)

    def _wanted_after(self, after: Tensor) -> Tensor:
        """The sums of all outputs of the rule's network, computed once."""
        if self._wanted is None:
            self._wanted = wanted(self._tensors.network, after, self._prepared[0])
        return self._wanted
