"""Whole models of medium size with random weights, as diffusers' folders.

They are large enough for a layer to cost more than its call, and small enough for a CPU. Classes
are the libraries' own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.guiders import ClassifierFreeGuidance

from tests import small_parts

LANGUAGE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SECOND = {"num_layers": 4, "d_model": 128, "d_ff": 256, "d_kv": 32, "num_heads": 4}
DIT = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "rope_axes_dim": (16, 24, 24),
    "text_embed_dim": 256,
}
CHANNELS = {"in_channels": 16, "out_channels": 16}
VAE = {"latent_channels": 16, "layers_per_block": 2}
SHIFT_10, SHIFT_15 = small_parts.SHIFT_10, small_parts.SHIFT_15


def model_10() -> diffusers.HunyuanVideoPipeline:
    """1.0, text to video: width 256, 4 + 4 blocks, Llama of 16 layers, VAE of width 32."""
    return diffusers.HunyuanVideoPipeline(
        text_encoder=small_parts.llama(**LANGUAGE),
        tokenizer=small_parts.llama_tokenizer(),
        transformer=small_parts.transformer_10(
            **DIT,
            **CHANNELS,
            num_layers=4,
            num_single_layers=4,
            pooled_projection_dim=128,
            guidance_embeds=True,
        ),
        vae=small_parts.vae_10(**VAE, block_out_channels=(32,) * 4, norm_num_groups=32),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT_10),
        text_encoder_2=small_parts.clip(
            hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
        ),
        tokenizer_2=small_parts.clip_tokenizer(),
    )


def model_15() -> diffusers.HunyuanVideo15Pipeline:
    """1.5, text to video, guided by two passes: width 256, 8 blocks, Qwen of 16 layers."""
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    return diffusers.HunyuanVideo15Pipeline(
        text_encoder=small_parts.qwen(**LANGUAGE, rope_parameters=rope),
        tokenizer=small_parts.qwen_tokenizer(),
        transformer=small_parts.transformer_15(
            **DIT,
            in_channels=33,
            out_channels=16,
            num_layers=8,
            text_embed_2_dim=128,
            image_embed_dim=128,
        ),
        vae=small_parts.vae_15(**VAE, block_out_channels=(32,) * 5),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT_15),
        text_encoder_2=small_parts.glyph_encoder(**SECOND),
        tokenizer_2=transformers.ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )


MODELS: dict[str, Callable[[], Any]] = {"medium-1.0": model_10, "medium-1.5": model_15}


def write_model(name: str, folder: Path) -> Path:
    """Write the model called `name`; returns its folder."""
    MODELS[name]().save_pretrained(folder)
    return folder
