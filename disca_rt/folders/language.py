"""Llama and Qwen2.5-VL, cut to the layers whose states are read.

HunyuanVideo takes the states before the last two layers (`hidden_states[-3]`): those two layers,
the final norm and the head are neither built nor read, and `last_hidden_state` is what it takes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..weights.errors import CheckpointError
from .weights import Weights, build, config_of, fill, heads_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SKIPPED = 2  # layers
ANCHOR = "embed_tokens.weight"
HEAD_WIDTH = 128  # of both models as published
UNREAD = re.compile(r"norm\.weight|.*rotary_emb\.inv_freq")
# What else the files hold: heads, vision towers, and ComfyUI's tokenizer as a tensor.
FOREIGN = re.compile(
    r"(.*\.)?(lm_head|visual|vision_tower|multi_modal_projector|vision_model)\.|tokenizer$|"
    r"(.*\.)?(image_newline|spiece_model|tekken_model)$"
)


class Language(NamedTuple):
    """A language model: its classes in transformers and what tensors do not tell of it."""

    title: str
    model: str
    config: str
    whole_configs: tuple[str, ...]
    facts: Mapping[str, Any]


LANGUAGES: dict[Family, Language] = {
    VIDEO_10.name: Language(
        title="Llama (LLaVA's language model)",
        model="LlamaModel",
        config="LlamaConfig",
        whole_configs=("LlavaConfig",),
        facts={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
    ),
    VIDEO_15.name: Language(
        title="Qwen2.5-VL",
        model="Qwen2_5_VLTextModel",
        config="Qwen2_5_VLTextConfig",
        whole_configs=("Qwen2_5_VLConfig",),
        facts={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
    ),
}


def load_language_model(
    path: Path,
    family: Family,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> "PreTrainedModel":
    """The language model of `family`; its `last_hidden_state` is `hidden_states[-3]` of the whole.

    A transformers `LlamaModel` or `Qwen2_5_VLTextModel`, `[B, L, hidden]`. Raises CheckpointError
    where the tensors are not those of such a model.
    """
    import transformers

    weights, named, config = language_parts(path, family)
    module = build(weights, lambda: getattr(transformers, LANGUAGES[family].model)(config))
    module.norm = nn.Identity()
    return fill(module, weights, named, device, dtype)


def language_parts(
    path: Path, family: Family
) -> "tuple[Weights, dict[str, str], PreTrainedConfig]":
    """The checkpoint, its tensors by the cut model's names, and the cut model's configuration."""
    kind = LANGUAGES[family]
    weights = Weights.open(path, f"{kind.title} for {FAMILIES[family].title}")
    prefix = weights.prefix(ANCHOR)
    named = weights.under(prefix, FOREIGN)
    layers, told = _layers(weights, named), config_of(path)
    config = build(weights, lambda: _config(kind, weights, prefix, layers, told))
    kept = config.num_hidden_layers
    named = {name: source for name, source in named.items() if not _is_skipped(name, kept)}
    return weights, named, config


def _layers(weights: Weights, named: Mapping[str, str]) -> int:
    found = {int(match[1]) for name in named if (match := re.match(r"layers\.(\d+)\.", name))}
    if len(found) <= SKIPPED:
        raise CheckpointError(
            f"{weights.path} has {len(found)} layers, too few for a {weights.what}"
        )
    return max(found) + 1


def _is_skipped(name: str, kept: int) -> bool:
    match = re.match(r"layers\.(\d+)\.", name)
    return bool(UNREAD.fullmatch(name)) or (match is not None and int(match[1]) >= kept)


def _config(
    kind: Language, weights: Weights, prefix: str, layers: int, told: Mapping[str, Any]
) -> "PreTrainedConfig":
    """The configuration of the cut model, of its config.json or by shapes and known facts."""
    import transformers

    config_class = getattr(transformers, kind.config)
    if told:
        whole = [getattr(transformers, name) for name in kind.whole_configs]
        match = [each for each in whole if each.model_type == told.get("model_type")]
        config = match[0].from_dict(dict(told)).text_config if match else None
        config = config or config_class.from_dict(dict(told))
    else:
        config = config_class(**_sizes(weights, prefix, layers), **kind.facts)
    if config.num_hidden_layers != layers:
        raise CheckpointError(
            f"{weights.path} has {layers} layers, and its config.json says "
            f"{config.num_hidden_layers}; they are not of one model"
        )
    config.num_hidden_layers = layers - SKIPPED
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: layers - SKIPPED]
    config.use_cache = False
    return config


def _sizes(weights: Weights, prefix: str, layers: int) -> dict[str, int]:
    """Sizes by shapes, where no config.json tells them: ComfyUI's files."""
    rows, hidden = weights.shape(f"{prefix}{ANCHOR}")
    first = f"{prefix}layers.0"
    q, k = (weights.shape(f"{first}.self_attn.{n}_proj.weight")[0] for n in "qk")
    return {
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": weights.shape(f"{first}.mlp.gate_proj.weight")[0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads_of(weights, q, HEAD_WIDTH),
        "num_key_value_heads": heads_of(weights, k, HEAD_WIDTH),
    }
