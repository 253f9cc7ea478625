"""CLIP's text model, byT5's encoder of glyphs and SigLIP's vision model, from any layout.

Sizes are read from the tensors where no configuration travels with them; what tensors cannot tell
is known of the published models.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .weights import Weights, build, config_of, fill, heads_of

if TYPE_CHECKING:
    from transformers import CLIPTextModel, SiglipVisionModel, T5EncoderModel

CLIP_ANCHOR = "embeddings.token_embedding.weight"
VISION_ANCHOR = "embeddings.patch_embedding.weight"
CLIP_HEAD_WIDTH, SIGLIP_HEAD_WIDTH = 64, 72
CLIP_FOREIGN = re.compile(
    r"(.*\.)?(vision_model|visual|text_projection|visual_projection)\b|logit_scale$|"
    r"(.*\.)?position_ids$"
)
SIGLIP_FOREIGN = re.compile(r"(.*\.)?text_model\.|logit_(scale|bias)$|(.*\.)?position_ids$")
T5_FOREIGN = re.compile(r"decoder\.|lm_head\.|spiece_model$|tokenizer$")
GLYPH_PREFIX = "text_tower.encoder."  # Glyph-SDXL-v2 saves its whole model


def load_clip(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> "CLIPTextModel":
    """CLIP-L's text model, whose `pooler_output [B, 768]` HunyuanVideo 1.0 takes."""
    from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel

    weights = Weights.open(path, "text model of CLIP")
    prefix, told = weights.prefix(CLIP_ANCHOR), config_of(path)

    def make() -> CLIPTextModel:
        if told.get("model_type") == "clip":
            return CLIPTextModel(CLIPConfig.from_dict(dict(told)).text_config)
        return CLIPTextModel(CLIPTextConfig.from_dict(dict(told or _clip_sizes(weights, prefix))))

    module = build(weights, make)
    named = weights.named_as(module, CLIP_ANCHOR, CLIP_FOREIGN)
    return fill(module, weights, named, device, dtype)


def load_byt5(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> "T5EncoderModel":
    """byT5's encoder of glyphs, whose `last_hidden_state [B, L, 1472]` HunyuanVideo 1.5 takes.

    Rows of its embedding are as many as the file has: Glyph-SDXL-v2 adds colours and fonts.
    """
    from transformers import T5Config, T5EncoderModel

    weights = Weights.open(path, "T5 encoder of byT5")
    named = _of_t5(weights)
    told = config_of(path)

    def make() -> T5EncoderModel:
        config = T5Config.from_dict(dict(told or _t5_sizes(weights, named)))
        config.vocab_size = weights.shape(_embedding(weights, named))[0]
        config.is_encoder_decoder = config.use_cache = False
        return T5EncoderModel(config)

    return fill(build(weights, make), weights, named, device, dtype)


def load_siglip(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> "SiglipVisionModel":
    """SigLIP's vision model, whose `last_hidden_state [B, 729, 1152]` HunyuanVideo 1.5 takes."""
    from transformers import SiglipConfig, SiglipVisionConfig, SiglipVisionModel

    weights = Weights.open(path, "vision model of SigLIP")
    prefix, told = weights.prefix(VISION_ANCHOR), config_of(path)

    def make() -> SiglipVisionModel:
        if told.get("model_type") == "siglip":
            return SiglipVisionModel(SiglipConfig.from_dict(dict(told)).vision_config)
        sizes = told or vision_sizes(weights, prefix, SIGLIP_HEAD_WIDTH)
        return SiglipVisionModel(SiglipVisionConfig.from_dict(dict(sizes)))

    module = build(weights, make)
    named = weights.named_as(module, VISION_ANCHOR, SIGLIP_FOREIGN)
    return fill(module, weights, named, device, dtype)


def _of_t5(weights: Weights) -> dict[str, str]:
    """The encoder's tensors by the names of `T5EncoderModel`; the rest of Glyph's file is left."""
    names = list(weights.checkpoint.entries)
    glyph = next((n.partition(GLYPH_PREFIX)[0] for n in names if GLYPH_PREFIX in n), None)
    if glyph is not None:
        start = glyph + GLYPH_PREFIX
        return {f"encoder.{n.removeprefix(start)}": n for n in names if n.startswith(start)}
    prefix = weights.prefix("encoder.final_layer_norm.weight")
    return weights.under(prefix, T5_FOREIGN)


def _embedding(weights: Weights, named: Mapping[str, str]) -> str:
    """The name in the file of T5's embedding, which is tied and may have either name."""
    name = "shared.weight" if "shared.weight" in named else "encoder.embed_tokens.weight"
    return named.get(name, name)


def _t5_sizes(weights: Weights, named: Mapping[str, str]) -> dict[str, Any]:
    def shape(name: str) -> tuple[int, ...]:
        name = f"encoder.block.0.layer.{name}.weight"
        return weights.shape(named.get(name, name))

    rows, width = weights.shape(_embedding(weights, named))
    buckets, heads = shape("0.SelfAttention.relative_attention_bias")
    return {
        "vocab_size": rows,
        "d_model": width,
        "d_kv": shape("0.SelfAttention.q")[0] // heads,
        "d_ff": shape("1.DenseReluDense.wi_0")[0],
        "num_layers": _count(named, r"encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
    }


def _clip_sizes(weights: Weights, prefix: str) -> dict[str, Any]:
    rows, width = weights.shape(f"{prefix}embeddings.token_embedding.weight")
    positions = weights.shape(f"{prefix}embeddings.position_embedding.weight")[0]
    return {
        **_layer_sizes(weights, prefix),
        "vocab_size": rows,
        "hidden_size": width,
        "num_attention_heads": heads_of(weights, width, CLIP_HEAD_WIDTH),
        "max_position_embeddings": positions,
        "bos_token_id": rows - 2,
        "eos_token_id": rows - 1,
    }


def vision_sizes(weights: Weights, prefix: str, head_width: int) -> dict[str, Any]:
    """Sizes of a vision tower by shapes: SigLIP's, or CLIP's, which has a token of its own."""
    width, _, patch, _ = weights.shape(f"{prefix}embeddings.patch_embedding.weight")
    positions = weights.shape(f"{prefix}embeddings.position_embedding.weight")[0]
    return {
        **_layer_sizes(weights, prefix),
        "hidden_size": width,
        "num_attention_heads": heads_of(weights, width, head_width),
        "patch_size": patch,
        "image_size": patch * math.isqrt(positions),  # 378: the last 6 pixels of 384 are not read
    }


def _layer_sizes(weights: Weights, prefix: str) -> dict[str, int]:
    names = [name.removeprefix(prefix) for name in weights.checkpoint.entries]
    return {
        "intermediate_size": weights.shape(f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(names, r"encoder\.layers\.(\d+)\."),
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number that `pattern` finds."""
    return max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1) + 1
