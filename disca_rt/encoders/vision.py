"""An image as HunyuanVideo 1.5 sees it: tokens of SigLIP, zeros where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .language import device_of

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENS, WIDTH = 729, 1152  # of so400m, patch 14, 384 pixels: 27 x 27


def check_processor(siglip: nn.Module, processor: Any) -> None:
    """Raise ValueError for an image processor whose images are not as large as SigLIP's."""
    side, made = siglip.config.image_size, processor.size["height"]
    if side != made:
        raise ValueError(
            f"image_processor makes images of {made} pixels, and image_encoder (SigLIP) takes "
            f"{side}; give the preprocessor_config.json that goes with it"
        )


def image_states(siglip: nn.Module, processor: Any, image: Image) -> Tensor:
    """States `[1, tokens, width]` of an image that is as large as the video; the last layer's.

    On the network's device and in its dtype. `processor` makes the image as large as SigLIP wants.
    """
    pixels = processor(images=image, do_resize=True, do_convert_rgb=True, return_tensors="pt")
    dtype = next(siglip.parameters()).dtype
    with torch.no_grad():
        pixels = pixels["pixel_values"].to(device_of(siglip), dtype)
        return siglip(pixel_values=pixels).last_hidden_state


def image_tokens(siglip: nn.Module | None) -> int:
    """Number of tokens of an image; the real model's where there is no network to ask."""
    if siglip is None:
        return TOKENS
    config = siglip.config
    return (config.image_size // config.patch_size) ** 2
