"""LLaVA, which encodes prompt and picture of 1.0's image-to-video: language, vision, projector.

In transformers' folders all three are in one checkpoint; ComfyUI has the last two in a file apart.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .encoders import vision_sizes
from .language import language_parts
from .weights import Weights, build, config_of, fill

if TYPE_CHECKING:
    from transformers import LlavaModel

HEAD_WIDTH = 64
IMAGE_TOKEN = 128257  # of llava-llama-3-8b, where no configuration tells it
VISION, PROJECTOR = "embeddings.patch_embedding.weight", "multi_modal_projector.linear_1.weight"
POSITIONS = "embeddings.position_ids"  # numbers that older versions save


def load_llava(
    language: Path,
    vision: Path,
    family: Any,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> "LlavaModel":
    """A transformers `LlavaModel` whose `last_hidden_state` is `hidden_states[-3]` of the whole.

    `language` and `vision` are the checkpoints of its parts, or one that has all. Raises
    CheckpointError where the tensors are not those of such a model.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaModel

    text, named, text_config = language_parts(language, family)
    eyes = Weights.open(vision, "vision tower of LLaVA")
    told = config_of(language)
    sizes = told.get("vision_config") or vision_sizes(eyes, eyes.prefix(VISION), HEAD_WIDTH)
    token = told.get("image_token_index", told.get("image_token_id", IMAGE_TOKEN))

    def make() -> LlavaModel:
        seen = CLIPVisionConfig.from_dict(dict(sizes))
        config = LlavaConfig(text_config=text_config, vision_config=seen, image_token_index=token)
        return LlavaModel(config)

    module = build(eyes, make)
    module.language_model.norm = nn.Identity()
    dtype = dtype or text.dtype(named)
    fill(module.language_model, text, named, device, dtype)
    fill(module.vision_tower, eyes, _tower(eyes, module.vision_tower), device, dtype)
    fill(module.multi_modal_projector, eyes, _projector(eyes), device, dtype)
    return module.eval()


def _tower(weights: Weights, module: nn.Module) -> dict[str, str]:
    own = next(name for name in module.state_dict() if name.endswith(VISION)).removesuffix(VISION)
    named = weights.below(weights.prefix(VISION))
    return {own + name: source for name, source in named.items() if name != POSITIONS}


def _projector(weights: Weights) -> dict[str, str]:
    return weights.below(weights.prefix(PROJECTOR) + PROJECTOR.removesuffix("linear_1.weight"))
