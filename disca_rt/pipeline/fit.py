"""Checks of a request against a model: guidance, conditionings and noise. Runs no model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import DiTConfig
from ..sampling.guidance import DEFAULT_GUIDANCE, Guidance
from .request import Request


def guidance_of(request: Request, config: DiTConfig) -> Guidance:
    """Scales of a sample; ValueError where model, scales and negative side do not go together.

    `classifier_free` is set exactly where a sample has two passes.
    """
    embedded, mixing = None, request.classifier_free_scale
    scale, has_negative = request.guidance_scale, request.negative is not None
    if config.guidance_embed:
        embedded = DEFAULT_GUIDANCE if scale is None else scale
    elif scale is not None and mixing is not None:
        raise ValueError(
            "this model embeds no guidance; give either guidance_scale or classifier_free_scale"
        )
    elif scale is not None or (has_negative and mixing is None):
        mixing = DEFAULT_GUIDANCE if scale is None else scale
    if mixing is None and (has_negative or request.negative_prompt):
        how = "embeds its guidance" if config.guidance_embed else "runs without guidance"
        side = "prompt" if request.negative_prompt else "conditioning"
        raise ValueError(
            f"this model {how}; leave the negative {side} out, or give a classifier_free_scale"
        )
    if mixing is not None and request.prompts is None and not has_negative:
        name = (
            "guidance_scale" if request.classifier_free_scale is None else "classifier_free_scale"
        )
        whose = "" if config.guidance_embed else ": this base model embeds no guidance"
        raise ValueError(f"{name} needs a negative conditioning{whose}")
    return Guidance(embedded, mixing)


def check_conditionings(request: Request, config: DiTConfig) -> None:
    """Raise ValueError for the first tensor that does not fit the model or the other tensors."""
    batch = request.conditioning.checked_batch()
    check_latents(request, config, batch)
    for conditioning, prefix in zip(request.conditionings, ("", "negative_"), strict=False):
        conditioning.validate(config, (batch, *latent_shape(request)), batch, prefix)


def check_latents(request: Request, config: DiTConfig, batch: int) -> None:
    """Raise ValueError where the model cannot take noise of this shape, for `batch` samples."""
    channels = config.in_channels
    got = [batch, *latent_shape(request)] if request.latents is None else [*request.latents.shape]
    name = "latent_shape" if request.latents is None else "latents"
    if len(got) != 5 or got[:2] != [batch, channels]:
        wanted = f"[{batch}, {channels}, T, H, W]"
        if name == "latent_shape":
            wanted, got = f"({channels}, T, H, W)", tuple(got[1:])
        raise ValueError(f"{name} must be {wanted}, got {got}")
    config.token_grid(got[2:])
    noise = request.latents
    if noise is not None and (noise.is_complex() or noise.is_meta or noise.layout != torch.strided):
        raise ValueError(f"latents must be a dense tensor of real numbers, got {noise.dtype}")
    if noise is not None and not torch.isfinite(noise).all():
        raise ValueError("latents have values that are not finite; leave them out to draw noise")
    request.seeds(batch)


def latent_shape(request: Request) -> tuple[int, ...]:
    """Shape (C, T, H, W) of the noise, for a request without a `size` in pixels."""
    return tuple(request.latent_shape or request.latents.shape[1:])


def noise_of(request: Request, batch: int) -> Tensor:
    """Initial noise `[B, C, T, H, W]` in fp32: the given one, or rows drawn on the CPU."""
    if request.latents is not None:
        return request.latents.float()
    shape = request.latent_shape
    return torch.stack([_row(shape, seed) for seed in request.seeds(batch)])


def _row(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
