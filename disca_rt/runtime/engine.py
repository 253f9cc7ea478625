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

from ..cache.policy import CachePolicy
from ..models.conditioning import Prepared
from ..models.dit import DiT, StepInputs
from ..schedule import Schedule, Step
from .stopwatch import Stopwatch


class Cancelled(RuntimeError):
    """A sample was cancelled between two steps."""


class StepEvent(NamedTuple):
    """What a callback sees after each step; `latents` is the live tensor: clone to keep it."""

    step: Step
    steps: int
    is_predicted: bool
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
    embedded = _guidance_input(guidance.embedded, latents.shape[0], dit)
    for each in passes:
        policy.reset(each.state)
    for step in schedule:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"cancelled before step {step.index} of {schedule.steps}")
        is_predicted = policy.is_predicted(step)
        with stopwatch.stage("predicted steps" if is_predicted else "full steps"):
            inputs = _step_inputs(step, embedded, latents.shape[0], dit)
            velocities = [_velocity(dit, policy, step, inputs, latents, each) for each in passes]
            velocity = velocities[0]
            if guidance.classifier_free is not None:
                velocity = dit.ops.cfg_combine(*velocities, guidance.classifier_free)
            latents = dit.ops.euler_step(latents, velocity, step.sigma, step.sigma_next)
        if on_step is not None:
            on_step(StepEvent(step, schedule.steps, is_predicted, latents))
    return latents


def _velocity(
    dit: DiT, policy: CachePolicy, step: Step, inputs: StepInputs, latents: Tensor, each: Pass
) -> Tensor:
    tokens, context = dit.embed(latents, inputs, each.prepared)
    tokens = policy.run(step, tokens, context, dit.blocks, each.state)
    return dit.head(tokens, context, each.prepared)


def _step_inputs(step: Step, guidance: Tensor | None, batch: int, dit: DiT) -> StepInputs:
    t = torch.full((batch,), step.t, dtype=torch.float32, device=dit.device)
    r = torch.full_like(t, step.r) if dit.config.meanflow else None
    return StepInputs(t, r, guidance)


def _guidance_input(scale: float | None, batch: int, dit: DiT) -> Tensor | None:
    if scale is None:
        return None
    # Cast, then times 1000: 6.0 becomes 6016 in bf16, which is what the models were trained with.
    return torch.full((batch,), scale, dtype=dit.dtype, device=dit.device) * 1000
