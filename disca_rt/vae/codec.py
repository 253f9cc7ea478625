"""The seam of every codec between latents and video. Knows no weights."""

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Turns latents into video, and says which sizes there are."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (C, T, H, W) of the latents; ValueError names an illegal size."""

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Size (frames, height, width) of latents (T, H, W)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents `[B, C, T, H, W]` to video `[B, 3, T', H', W']` in [0, 1]."""
