"""Codec of the embedded model: a pixel-unshuffle to latents, 2x2 in space and none in time.

It stands where HunyuanVideo has its causal VAE, and like it owns the rules for legal sizes. It is
exact to float32 and has no weights; it knows nothing about scenes or the model.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..sampling.loop import Cancelled
from ..vae.codec import OnTile, check_finite

FACTOR = 2  # pixels per latent, along height and along width
LATENT_CHANNELS = 3 * FACTOR * FACTOR
SIZE_MULTIPLE = 2 * FACTOR  # the model's patches are 2x2 latents
# Clips have mean 0.255 and standard deviation 0.197: latents are near N(0, 1).
SHIFT = 0.25
SCALE = 5.0


@dataclass(frozen=True)
class PixelUnshuffleCodec:
    """Maps video [B, 3, T, H, W] in [0, 1] to latents [B, 12, T, H/2, W/2] and back."""

    latent_channels: int = LATENT_CHANNELS

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Encode video [B, 3, T, H, W] in [0, 1] to float32 latents; ValueError: illegal size."""
        self.latent_shape(*video.shape[2:])
        frames_first = video.float().transpose(1, 2)
        latents = pixel_unshuffle(frames_first, FACTOR).transpose(1, 2).contiguous()
        return (latents - SHIFT) * SCALE

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [B, 12, T, h, w] to float32 video [B, 3, T, 2h, 2w], in [0, 1]."""
        pixels = latents.float() / SCALE + SHIFT
        video = pixel_shuffle(pixels.transpose(1, 2), FACTOR).transpose(1, 2).contiguous()
        return video.clamp(0.0, 1.0)

    def stream(
        self,
        latents: torch.Tensor,
        *,
        on_tile: OnTile | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[torch.Tensor]:
        """Decode one sample [12, T, h, w] to its only chunk, the whole video [3, T, 2h, 2w]."""
        check_finite(latents)
        if cancel is not None and cancel.is_set():
            raise Cancelled("cancelled before decode")
        video = self.decode(latents[None])[0]
        if on_tile is not None:
            on_tile(1, 1)
        yield video

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (channels, T, h, w) of a video's latents; ValueError names legal sizes nearby."""
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}; nearest is 1")
        _check_multiple("height", height)
        _check_multiple("width", width)
        return LATENT_CHANNELS, frames, height // FACTOR, width // FACTOR

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Size (frames, height, width) of the video that latents (T, h, w) decode to."""
        return t, FACTOR * h, FACTOR * w


def _check_multiple(name: str, value: int) -> None:
    low = value // SIZE_MULTIPLE * SIZE_MULTIPLE
    if value >= SIZE_MULTIPLE and low == value:
        return
    if low < SIZE_MULTIPLE:
        nearest = f"nearest is {SIZE_MULTIPLE}"
    else:
        nearest = f"nearest are {low} and {low + SIZE_MULTIPLE}"
    raise ValueError(f"{name} must be divisible by {SIZE_MULTIPLE}, got {value}; {nearest}")
