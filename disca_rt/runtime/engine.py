"""The only denoising loop: embed, the policy's middle, head, Euler, at every step of a schedule.

It knows neither checkpoints nor prompts nor files, and keeps nothing between calls: what a policy
remembers is in the `Pass` it is given.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.policy import CachePolicy, StepKind
from ..models.dit import DiT, StepInputs
from ..models.prepared import Prepared
from ..schedule import Schedule, Step
from .stopwatch import Stopwatch


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
) -> Tensor:
    """From noise `[B, C, T, H, W]` fp32 to clean latents of the same shape.

    `passes` is one conditioning, or the conditional and then the unconditional one when
    `guidance.classifier_free` is set. Raises `Cancelled` when `cancel` is set between steps.
    """
    inputs = _StepTable(schedule, guidance, latents.shape[0], dit)
    for each in passes:
        policy.reset(each.state)
    for step in schedule:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"cancelled before step {step.index} of {schedule.steps}")
        started = stopwatch.start()
        kinds, patches = zip(
            *(_forward(dit, policy, step, inputs, latents, each) for each in passes), strict=True
        )
        latents = dit.ops.euler_step(
            latents,
            patches[0],
            patches[1] if len(patches) == 2 else None,
            1.0 if guidance.classifier_free is None else guidance.classifier_free,
            inputs.dt(step),
            passes[0].prepared.grid,
            dit.config.patch,
        )
        kind: StepKind = "full" if "full" in kinds else "predicted"
        stopwatch.stop(f"{kind} steps", started)
        if on_step is not None:
            on_step(StepEvent(step, schedule.steps, kind, latents))
    return latents


def _forward(
    dit: DiT, policy: CachePolicy, step: Step, inputs: "_StepTable", latents: Tensor, each: Pass
) -> tuple[StepKind, Tensor]:
    """What the step did, and its velocity patches `[B, S_img, C·p·q·r]`."""
    tokens, context = dit.embed(latents, inputs.row(step), each.prepared)
    kind = policy.decide(step, tokens, each.state)
    tokens = policy.run(kind, tokens, context, dit.blocks, each.state)
    return kind, dit.head(tokens, context)


class _StepTable:
    """The scalars of every step, on the device before the first one: no step waits for the host."""

    def __init__(self, schedule: Schedule, guidance: Guidance, batch: int, dit: DiT) -> None:
        steps = list(schedule)
        timesteps = torch.tensor([*(step.t for step in steps), steps[-1].r], device=dit.device)
        self._timesteps = timesteps[:, None].expand(-1, batch)
        lengths = [step.sigma_next - step.sigma for step in steps]
        self._dt = torch.tensor(lengths, dtype=torch.float32, device=dit.device)
        self._has_r = dit.config.meanflow
        self._guidance = _guidance_input(guidance.embedded, batch, dit)

    def dt(self, step: Step) -> Tensor:
        """The length of a step, negative, fp32 `[]`."""
        return self._dt[step.index]

    def row(self, step: Step) -> StepInputs:
        r = self._timesteps[step.index + 1] if self._has_r else None
        return StepInputs(self._timesteps[step.index], r, self._guidance)


def _guidance_input(scale: float | None, batch: int, dit: DiT) -> Tensor | None:
    if scale is None:
        return None
    # Cast, then times 1000: 6.0 becomes 6016 in bf16, which is what the models were trained with.
    return torch.full((batch,), scale, dtype=dit.dtype, device=dit.device) * 1000
