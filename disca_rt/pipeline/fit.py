"""Checks of requests and models against each other, and what follows from both. Runs no model."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from ..models.dit import DiT
from ..models.predictor import Predictor
from ..sampling.guidance import DEFAULT_GUIDANCE, Guidance
from .match import Rules
from .noise import NoiseRule, draw_noise
from .request import Request


class Place(NamedTuple):
    """Dtype and device of a model's weights."""

    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device}"


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
    """Raise ValueError where shape, noise or seeds of a request do not fit model and `batch`."""
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


def noise_of(
    request: Request, batch: int, rule: NoiseRule, config: DiTConfig, place: Place
) -> Tensor:
    """Initial noise `[B, C, T, H, W]` in fp32: the given one, or drawn by the request's rule.

    `rule` is that of a request without one; `place` is the DiT's.
    """
    if request.latents is not None:
        return request.latents.float()
    seeds = request.seeds(batch)
    return draw_noise(request.noise or rule, config.family, request.latent_shape, seeds, *place)


def draws_picture(request: Request, rules: Rules, config: DiTConfig) -> bool:
    """Tell whether the picture's latents are drawn, by the generator of the noise and before it.

    So diffusers does for SkyReels; its other pipelines, and the authors', take the mode.
    """
    is_skyreels = config.traits.token_replace and config.condition_channels == config.in_channels
    return is_skyreels and (request.noise or rules.noise) == "diffusers"


def image_share(request: Request, rules: Rules, config: DiTConfig) -> float:
    """Share of the picture's latents in the noise: the request's, else the rules' for 1.0.

    By rule it is for 1.0's own image-to-video alone, not for SkyReels, which marks no frames.
    """
    if request.image_share is not None:
        return request.image_share
    conditioning, channels = request.conditioning, config.in_channels
    is_marked = config.traits.token_replace and config.condition_channels == channels + 1
    has_picture = is_marked and bool(conditioning.cond_latents[:, channels:].any())
    has_picture = has_picture or conditioning.first_frame_latents is not None
    return rules.image_share if has_picture else 0.0


def check_finite(what: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise FloatingPointError, naming `what`, for values that `dtype` could not hold."""
    if not torch.isfinite(tensor).all():
        way_out = "" if dtype == torch.float32 else "; try dtype float32"
        name = str(dtype).removeprefix("torch.")
        raise FloatingPointError(f"the {what} is not finite in {name}{way_out}")


def check_fits(predictor: Predictor | None, dit: DiT) -> None:
    """Raise ValueError where a predictor is of other sizes, or elsewhere, than the DiT."""
    if predictor is None:
        return
    differences = predictor.config.differences(dit.config)
    if differences:
        raise ValueError(f"predictor does not fit the DiT: {'; '.join(differences)}")
    if place_of(predictor) != place_of(dit):
        raise ValueError(
            f"predictor must be where and as the DiT is, {place_of(dit)}, got {place_of(predictor)}"
        )


def place_of(module: nn.Module) -> Place:
    """Dtype and device of a model."""
    parameter = next(module.parameters())
    return Place(parameter.dtype, parameter.device)
