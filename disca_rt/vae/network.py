"""The networks of both VAEs: one tile of latents to pixels and back, by diffusers' own layers.

The walk over a module's layers is here because of the middle attention's mask alone: diffusers
fills the one of HunyuanVideo 1.5 by a Python loop over all positions. Ours has the same values, and
so has the result, to the last bit. Modules are read, never changed.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..family import VIDEO_10, VIDEO_15, Family


class Network(Protocol):
    """One of the two VAEs."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode one sample's `[1, C, T, H, W]` to pixels in [-1, 1], about."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode `[1, 3, T, H, W]` in [-1, 1] to the mean and logarithm of variance, `2 C`."""


def causal_mask(frames: int, positions: int, like: Tensor) -> Tensor:
    """Mask `[1, N, N]` of frames that see themselves and earlier ones: 0, else minus infinity.

    N is `frames * positions`; dtype and device are those of `like`.
    """
    seen = torch.full((frames, frames), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
    shape = frames, positions, frames, positions
    return seen[:, None, :, None].expand(shape).reshape(1, frames * positions, frames * positions)


class Network10:
    """Layers of an `AutoencoderKLHunyuanVideo`."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def decode(self, latents: Tensor) -> Tensor:
        decoder = self.vae.decoder
        hidden = decoder.conv_in(self.vae.post_quant_conv(latents))
        hidden = _middle(decoder.mid_block, hidden, _attend_10)
        for block in decoder.up_blocks:
            hidden = block(hidden)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))

    def encode(self, pixels: Tensor) -> Tensor:
        encoder = self.vae.encoder
        hidden = encoder.conv_in(pixels)
        for block in encoder.down_blocks:
            hidden = block(hidden)
        hidden = _middle(encoder.mid_block, hidden, _attend_10)
        hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
        return self.vae.quant_conv(hidden)


class Network15:
    """Layers of an `AutoencoderKLHunyuanVideo15`."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def decode(self, latents: Tensor) -> Tensor:
        decoder = self.vae.decoder
        hidden = decoder.conv_in(latents) + latents.repeat_interleave(decoder.repeat, dim=1)
        hidden = _middle(decoder.mid_block, hidden, _attend_15)
        for block in decoder.up_blocks:
            hidden = block(hidden)
        return decoder.conv_out(decoder.conv_act(decoder.norm_out(hidden)))

    def encode(self, pixels: Tensor) -> Tensor:
        encoder = self.vae.encoder
        hidden = encoder.conv_in(pixels)
        for block in encoder.down_blocks:
            hidden = block(hidden)
        hidden = _middle(encoder.mid_block, hidden, _attend_15)
        averaged = hidden.unflatten(1, (-1, encoder.group_size)).mean(dim=2)
        return encoder.conv_out(encoder.conv_act(encoder.norm_out(hidden))) + averaged


NETWORKS: dict[Family, type[Network]] = {VIDEO_10.name: Network10, VIDEO_15.name: Network15}


def _middle(block: Any, hidden: Tensor, attend: Any) -> Tensor:
    hidden = block.resnets[0](hidden)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            hidden = attend(attention, hidden)
        hidden = resnet(hidden)
    return hidden


def _attend_10(attention: Any, hidden: Tensor) -> Tensor:
    frames, height, width = hidden.shape[2:]
    tokens = hidden.permute(0, 2, 3, 4, 1).flatten(1, 3)  # [1, N, C]
    mask = causal_mask(frames, height * width, tokens)
    tokens = attention(tokens, attention_mask=mask)
    return tokens.unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)


def _attend_15(attention: Any, hidden: Tensor) -> Tensor:
    frames, height, width = hidden.shape[2:]
    normed = attention.norm(hidden)
    query, key, value = (
        layer(normed).flatten(2).permute(0, 2, 1).unsqueeze(1).contiguous()  # [1, 1, N, C]
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    mask = causal_mask(frames, height * width, query)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    mixed = mixed.squeeze(1).unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)
    return attention.proj_out(mixed) + hidden
