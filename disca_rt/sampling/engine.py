"""The only denoising loop: embed, the policy's middle, head, Euler, at every step of a schedule.

It knows neither checkpoints nor prompts nor files, and keeps nothing between calls: what a policy
remembers is in the `Pass` it is given.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.policy import CachePolicy, StepKind
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.dit import DiT, StepInputs
from ..models.prepared import Prepared
from ..schedule import Schedule, Step
from ..sharding import Whole


class Cancelled(RuntimeError):
    """A sample was cancelled between two steps."""


class StepEvent(NamedTuple):
    """What a callback sees after each step; `latents` is the live tensor: clone to keep it."""

    step: Step
    steps: int
    kind: StepKind
    latents: Tensor


@dataclass
class Pass:
    """One forward per step over one conditioning, with the policy's state for it."""

    prepared: Prepared
    state: Any


class Guidance(NamedTuple):
    """`embedded`: scale fed through `guidance_in`; `classifier_free`: scale mixing two passes."""

    embedded: float | None = None
    classifier_free: float | None = None


def denoise(
    dit: DiT,
    policy: CachePolicy,
    schedule: Schedule,
    latents: Tensor,
    passes: Sequence[Pass],
    guidance: Guidance,
    stopwatch: Stopwatch,
    on_step: Callable[[StepEvent], None] | None = None,
    cancel: threading.Event | None = None,
    graphs: GraphRunner | None = None,
) -> Tensor:
    """From noise `[B, C, T, H, W]` fp32 to clean latents of the same shape.

    `passes` is one conditioning, or the conditional and then the unconditional one when
    `guidance.classifier_free` is set. Raises `Cancelled` when `cancel` is set between steps. With
    `graphs` the steps are captured and replayed, and where nobody looks in between the whole
    trajectory is.
    """
    for each in passes:
        policy.reset(each.state)
    sampler = Sampler(dit, policy, [each.state for each in passes], guidance.classifier_free)
    table = step_table(schedule, guidance, latents.shape[0], dit)
    prepared = [each.prepared for each in passes]
    is_whole = isinstance(dit.sharding, Whole)
    if graphs is not None and is_whole and on_step is None and cancel is None:
        started = stopwatch.start()
        key = "trajectory", schedule, sampler.key()
        trajectory = partial(sampler.trajectory, schedule)
        latents = graphs.run(key, trajectory, latents, table, prepared, over=sampler.over)
        stopwatch.stop(f"{schedule.steps} steps", started)
        return latents.clone()  # its memory is the next sample's
    for step in schedule:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"cancelled before step {step.index} of {schedule.steps}")
        started = stopwatch.start()
        inputs = latents, table.row(step), prepared
        if graphs is None:
            kind, latents = sampler.step(step, *inputs)
        else:
            kinds = sampler.decide(step)
            kind = sampler.kind(kinds)
            key = kinds, sampler.key()
            decided_step = partial(sampler.decided_step, kinds)
            latents = graphs.run(key, decided_step, *inputs, over=sampler.over)
        stopwatch.stop(f"{kind} steps", started)
        if on_step is not None:
            on_step(StepEvent(step, schedule.steps, kind, latents))
    return latents if graphs is None else latents.clone()


class StepRow(NamedTuple):
    """The scalars of one step: the model's, and `dt []`, its length, negative, fp32."""

    inputs: StepInputs
    dt: Tensor


class Sampler:
    """A sample's steps, and what stays the same over them. `scale` is of two passes.

    Its methods depend on their arguments, on `key`, on the weights of the model and on the buffers
    of the states: it is these that `over` lists.
    """

    def __init__(
        self, dit: DiT, policy: CachePolicy, states: Sequence[Any], scale: float | None
    ) -> None:
        self._dit, self._policy, self._states = dit, policy, states
        self._scale = 1.0 if scale is None else scale
        self.over = dit, *states

    def key(self) -> Hashable:
        variants = tuple(self._policy.variant(state) for state in self._states)
        return self._policy, variants, self._scale

    def decide(self, step: Step) -> tuple[StepKind, ...]:
        """Of each pass, before anything is computed: where `schedule_known`."""
        return tuple(self._policy.decide(step, None, state) for state in self._states)

    def kind(self, kinds: Sequence[StepKind]) -> StepKind:
        return "full" if "full" in kinds else "predicted"

    def step(
        self, step: Step, latents: Tensor, row: StepRow, prepared: Sequence[Prepared]
    ) -> tuple[StepKind, Tensor]:
        """What was done, and the latents after it."""
        decide = [partial(self._policy.decide, step, state=state) for state in self._states]
        kinds, patches = zip(
            *map(partial(self._forward, latents, row), decide, prepared, self._states), strict=True
        )
        return self.kind(kinds), self._advance(latents, patches, row, prepared)

    def decided_step(
        self,
        kinds: Sequence[StepKind],
        latents: Tensor,
        row: StepRow,
        prepared: Sequence[Prepared],
    ) -> Tensor:
        decide = [lambda tokens, kind=kind: kind for kind in kinds]
        forward = partial(self._forward, latents, row)
        patches = [forward(*each)[1] for each in zip(decide, prepared, self._states, strict=True)]
        return self._advance(latents, patches, row, prepared)

    def trajectory(
        self, schedule: Schedule, latents: Tensor, table: "StepTable", prepared: Sequence[Prepared]
    ) -> Tensor:
        for step in schedule:
            _, latents = self.step(step, latents, table.row(step), prepared)
        return latents

    def _forward(
        self,
        latents: Tensor,
        row: StepRow,
        decide: Callable[[Tensor], StepKind],
        prepared: Prepared,
        state: Any,
    ) -> tuple[StepKind, Tensor]:
        """What a pass did, and its velocity patches `[B, S_img, C·p·q·r]`."""
        tokens, context = self._dit.embed(latents, row.inputs, prepared)
        kind = decide(tokens)
        tokens = self._policy.run(kind, tokens, context, self._dit.blocks, state)
        return kind, self._dit.head(tokens, context)

    def _advance(
        self,
        latents: Tensor,
        patches: Sequence[Tensor],
        row: StepRow,
        prepared: Sequence[Prepared],
    ) -> Tensor:
        return self._dit.ops.euler_step(
            latents,
            patches[0],
            patches[1] if len(patches) == 2 else None,
            self._scale,
            row.dt,
            prepared[0].grid,
            self._dit.config.patch,
        )


class StepTable(NamedTuple):
    """The scalars of every step, on the device before the first one: no step waits for the host.

    `timesteps [steps + 1, B]`, `dt [steps]` fp32; `guidance [B]` or None.
    """

    timesteps: Tensor
    dt: Tensor
    has_r: bool
    guidance: Tensor | None

    def row(self, step: Step) -> StepRow:
        r = self.timesteps[step.index + 1] if self.has_r else None
        inputs = StepInputs(self.timesteps[step.index], r, self.guidance)
        return StepRow(inputs, self.dt[step.index])


def step_table(schedule: Schedule, guidance: Guidance, batch: int, dit: DiT) -> StepTable:
    steps = list(schedule)
    timesteps = [*(step.t for step in steps), steps[-1].r]
    timesteps = torch.tensor(timesteps, dtype=torch.float32, device=dit.device)
    lengths = [step.sigma_next - step.sigma for step in steps]
    return StepTable(
        timesteps[:, None].expand(-1, batch),
        torch.tensor(lengths, dtype=torch.float32, device=dit.device),
        dit.config.meanflow,
        _guidance_input(guidance.embedded, batch, dit),
    )


def _guidance_input(scale: float | None, batch: int, dit: DiT) -> Tensor | None:
    if scale is None:
        return None
    # Cast, then times 1000: 6.0 becomes 6016 in bf16, which is what the models were trained with.
    return torch.full((batch,), scale, dtype=dit.dtype, device=dit.device) * 1000
