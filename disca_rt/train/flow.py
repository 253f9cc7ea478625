"""Flow matching as all stages use it: the path from video to noise, and a model along it.

x_t = (1−t)·x_0 + t·ε, v = ε − x_0, t and r in [0, 1] (arXiv 2209.03003). A model is fed 1000·t and
1000·r and 1000·guidance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..models.blocks import run_blocks
from ..models.dit import DiT, StepInputs
from ..models.prepared import Prepared
from ..sampling.forward import Forward
from ..tokens import StepContext

TIMESTEP_SCALE = 1000.0
WEIGHT_EPS = 1e-2  # c of the weights: keeps that of a sample without error finite
GUIDANCE_RANGE = 1.0, 8.0  # of the scales that a guided model is trained on


class Point(NamedTuple):
    """Samples on their paths: `x_t [B, C, T, H, W]` and for each `t`, `r` and `guidance`, `[B]`.

    Only models that take `r` or `guidance` look at them. `guidance` is in the dtype that
    the run computes in: 1000·3.14 is 3136 in bf16, and a teacher and its student must agree.
    """

    x_t: Tensor
    t: Tensor
    r: Tensor
    guidance: Tensor


def noised(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mix `latents` and `noise` `[B, C, T, H, W]` to x_t at `t [B]`."""
    return torch.lerp(latents, noise, per_row(t))


def per_row(values: Tensor) -> Tensor:
    """Reshape `[B]` to `[B, 1, 1, 1, 1]`, to be multiplied with latents."""
    return values[:, None, None, None, None]


def shifted(t: Tensor, shift: float) -> Tensor:
    """Shift t towards noise as a sampler of shift s does: s·t/(1 + (s − 1)·t), arXiv 2403.03206."""
    return shift * t / (1 + (shift - 1) * t)


def scale_to(uniform: Tensor, low: float, high: float) -> Tensor:
    """Stretch uniforms of [0, 1) to uniforms of [low, high)."""
    return low + (high - low) * uniform


def step_inputs(dit: DiT, point: Point) -> StepInputs:
    """Make the inputs of `dit` at a point, in its units: 1000·t, 1000·r, 1000·guidance."""
    r = TIMESTEP_SCALE * point.r if dit.config.meanflow else None
    guidance = 1000 * point.guidance if dit.config.guidance_embed else None
    return StepInputs(TIMESTEP_SCALE * point.t, r, guidance)


def hidden_state(dit: DiT, point: Point, prepared: Prepared) -> tuple[Tensor, StepContext]:
    """Run `dit` to its last block: tokens `[B, S, C]`, and the blocks' context."""
    tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
    return run_blocks(dit.blocks, tokens, context), context


def velocity(dit: DiT, point: Point, prepared: Prepared) -> Tensor:
    """Velocity `[B, C, T, H, W]` that `dit` predicts at `point`, fp32; of MeanFlow the average.

    Embedding, blocks and head are called one by one: where the model is sharded, each gathers its
    own weights.
    """
    return velocity_of(dit, *hidden_state(dit, point, prepared), prepared)


def velocity_of(dit: DiT, tokens: Tensor, context: StepContext, prepared: Prepared) -> Tensor:
    """Velocity `[B, C, T, H, W]`, fp32, that the head reads from tokens `[B, S, C]`."""
    return Forward(dit).velocity(tokens, context, prepared).float()


def mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over everything, a scalar in fp32."""
    return (prediction.float() - target.float()).square().mean()


class Errors(NamedTuple):
    """Mean squared errors, both scalars: `plain` for the log, `weighted` to differentiate."""

    plain: Tensor
    weighted: Tensor


def weighted_square(prediction: Tensor, target: Tensor, power: float) -> Errors:
    """Mean squared errors, in which a sample's is divided by its own size to the `power`.

    1/(error + c)^p are MeanFlow's adaptive weights (arXiv 2505.13447, eq. 22): at 0 both scalars
    are the same, at 1 all samples count alike.
    """
    errors = (prediction.float() - target.float()).square().flatten(1).mean(1)
    weights = (errors.detach() + WEIGHT_EPS) ** -power
    return Errors(errors.detach().mean(), (weights * errors).mean())


def check_weight_power(power: float) -> None:
    """Raise ValueError unless `power` is from 0 to 1."""
    if not 0 <= power <= 1:
        raise ValueError(f"weight_power must be from 0 to 1, got {power}")
