"""Models of diffusers' classes with the same sizes and inputs, and random weights of their own.

Imports diffusers when it is asked for a model, and cache-dit when it is asked for a cached one.
Facts of their interfaces only; knows no clock.
"""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..config import DiTConfig
from ..models.dit import StepInputs
from .random_models import fill_randomly

Forward = Callable[[Tensor, StepInputs], Tensor]
"""Forward pass: latents `[1, C, T, H, W]` and a step's scalars to a velocity as large."""

INSTALL = "pip install 'disca_rt[bench]'"


class Unavailable(RuntimeError):
    """Error of a benchmark that needs something that is not installed."""


def diffusers_model(
    config: DiTConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Model of `config` in diffusers, with random weights or another's, not copied."""
    try:
        from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
    except ImportError as error:
        raise Unavailable(f"needs diffusers: {INSTALL}") from error
    sizes = {
        "in_channels": config.embed_channels,
        "out_channels": config.in_channels,
        "patch_size_t": config.patch[0],
        "patch_size": config.patch[1],
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "num_layers": config.double,
        "text_embed_dim": config.text_dim,
        "rope_axes_dim": config.rope,
    }
    with torch.device("meta"):
        if config.traits.has_glyphs:
            model = HunyuanVideo15Transformer3DModel(
                **sizes,
                text_embed_2_dim=config.byt5_dim,
                image_embed_dim=config.vision_dim,
                use_meanflow=config.meanflow,
            )
        else:
            model = HunyuanVideoTransformer3DModel(
                **sizes,
                num_single_layers=config.single,
                pooled_projection_dim=config.text_dim_2,
                guidance_embeds=config.guidance_embed,
                image_condition_type="token_replace" if config.token_replace else None,
            )
    assert not list(model.buffers()), "a buffer would be left uninitialised"
    model = nn.Module.to(model, dtype).eval().requires_grad_(False)  # theirs warns at any cast
    if weights is None:
        return fill_randomly(model.to_empty(device=device), seed=0)
    model.load_state_dict(weights, assign=True)
    return model


def diffusers_step(model: nn.Module, conditioning: Conditioning) -> Forward:
    """Forward pass of `model` under `conditioning`, which is cast to its device and dtype once."""
    device, dtype = model.device, model.dtype
    given = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in conditioning.tensors().items()
    }
    takes_r = getattr(model.config, "use_meanflow", False)

    def step(latents: Tensor, scalars: StepInputs) -> Tensor:
        shown = latents.to(dtype)  # what is done with it is a part of a step for both
        if "first_frame_latents" in given:
            shown = torch.cat([given["first_frame_latents"], shown[:, :, 1:]], dim=2)
        if "cond_latents" in given:
            shown = torch.cat([shown, given["cond_latents"]], dim=1)
        if "byt5_text_states" not in given:
            return model(
                shown,
                scalars.timestep,
                given["text_states"],
                given["text_mask"],
                given["text_states_2"],
                guidance=scalars.guidance,
                return_dict=False,
            )[0]
        return model(
            shown,
            scalars.timestep,
            given["text_states"],
            given["text_mask"],
            timestep_r=scalars.timestep_r if takes_r else None,
            encoder_hidden_states_2=given["byt5_text_states"],
            encoder_attention_mask_2=given["byt5_text_mask"],
            image_embeds=given["vision_states"],
            return_dict=False,
        )[0]

    return step


def cache_blocks(model: nn.Module, is_full: Sequence[bool]) -> Callable[[], None]:
    """Installs cache-dit's block cache in `model`, made to compute the steps that are full.

    Returns what must be called before every sample: else the cache takes the first step of the
    next one for another step of the last. Its own choice of steps depends on values, which are
    random here. A cached step computes the first block of each kind, the fewest it allows.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")  # else it tells every block it finds
    try:
        import cache_dit
        from cache_dit import BlockAdapter, DBCacheConfig, ForwardPattern
    except ImportError as error:
        raise Unavailable(f"needs cache-dit: {INSTALL}") from error
    blocks = [model.transformer_blocks]
    if hasattr(model, "single_transformer_blocks"):
        blocks.append(model.single_transformer_blocks)
    cache_dit.enable_cache(
        BlockAdapter(
            transformer=model,
            blocks=blocks,
            forward_pattern=[ForwardPattern.Pattern_0] * len(blocks),
        ),
        cache_config=DBCacheConfig(
            num_inference_steps=len(is_full),
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            steps_computation_mask=list(map(int, is_full)),
            steps_computation_policy="static",
        ),
    )
    return lambda: cache_dit.refresh_context(model)
