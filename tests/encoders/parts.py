"""What these tests share: a small LLaVA with its pipeline, a picture, and their comparison.

Other parts are in `small_parts`.
"""

from functools import cache
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

import small_parts
from disca_rt.conditioning import Conditioning

IMAGE_MARK = "<image>"
WORDS = ("assistant", "\n\n")  # one token each, as in the real vocabulary: the header has four


def llava_tokenizer(words: tuple[str, ...] = WORDS) -> transformers.PreTrainedTokenizerFast:
    """Llama's small tokenizer, with the image token and `words` as tokens."""
    tokenizer = small_parts.llama_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_MARK]})
    tokenizer.add_tokens(list(words))
    return tokenizer


def llava(image_size: int = 28) -> transformers.LlavaForConditionalGeneration:
    """LLaVA with (image_size / 14)² image tokens."""
    tokenizer = llava_tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=14,
    )
    text = small_parts.llama().config
    text.vocab_size = len(tokenizer)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_MARK),
        image_seq_length=(image_size // 14) ** 2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    return small_parts.randomized(model, 10)


def llava_processor(image_size: int = 28) -> Any:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


def pipeline_10_image(
    words: tuple[str, ...] = WORDS,
) -> diffusers.HunyuanVideoImageToVideoPipeline:
    """Image-to-video of HunyuanVideo 1.0, by replaced tokens; without its DiT."""
    return diffusers.HunyuanVideoImageToVideoPipeline(
        text_encoder=llava(),
        tokenizer=llava_tokenizer(words),
        transformer=None,
        vae=None,
        scheduler=None,
        text_encoder_2=small_parts.clip(),
        tokenizer_2=small_parts.clip_tokenizer(),
        image_processor=llava_processor(),
    )


@cache
def shared(name: str) -> Any:
    """Pipeline of `small_parts` or of this file, built once; nothing changes its networks."""
    return (globals().get(name) or getattr(small_parts, name))()


def picture(width: int = 60, height: int = 44) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_equal(ours: Conditioning, expected: Conditioning, *, has_padding: bool) -> None:
    """Compare all fields to 1e-6; where padding was not run, states of valid tokens alone."""
    for name, mask in (("text_states", "text_mask"), ("byt5_text_states", "byt5_text_mask")):
        if getattr(expected, name) is None:
            continue
        assert torch.equal(getattr(ours, mask), getattr(expected, mask).long())
        valid = slice(None) if has_padding else getattr(ours, mask).bool()
        pair = (getattr(each, name)[valid] for each in (ours, expected))
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)
    for name in ("text_states_2", "vision_states"):
        if getattr(expected, name) is not None:
            pair = (getattr(each, name) for each in (ours, expected))
            torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)
