"""The seam of every codec between latents and video. Knows no weights."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

OnTile = Callable[[int, int], None]
"""Called with the number of tiles that are decoded, and of all."""


class Codec(Protocol):
    """Turns latents into video and back, and says which sizes there are."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (C, T, H, W) of the latents; ValueError names an illegal size."""

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Size (frames, height, width) of latents (T, H, W)."""

    def encode(self, video: Tensor) -> Tensor:
        """Encode video `[B, 3, T', H', W']` in [0, 1] to fp32 latents `[B, C, T, H, W]`."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents `[B, C, T, H, W]` to fp32 video `[B, 3, T', H', W']` in [0, 1]."""

    def stream(
        self,
        latents: Tensor,
        *,
        on_tile: OnTile | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Tensor]:
        """Decode one sample `[C, T, H, W]` to chunks `[3, t, H', W']`, in order.

        Together they are what `decode` gives. Raises `Cancelled` between tiles once `cancel` is
        set.
        """


def without_first(chunks: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Chunks `[3, t, H, W]` less the first `count` frames of them all."""
    for chunk in chunks:
        kept = chunk[:, count:]
        count = max(count - chunk.shape[1], 0)
        if kept.shape[1]:
            yield kept


def check_finite(latents: Tensor) -> None:
    """Raise FloatingPointError, naming the stage, for latents that would decode to black."""
    wrong = latents.numel() - int(torch.isfinite(latents).sum())
    if wrong:
        raise FloatingPointError(
            f"the latents that came from denoising are not finite, {wrong:,} of "
            f"{latents.numel():,} values; nothing was decoded: sample again in another dtype"
        )
