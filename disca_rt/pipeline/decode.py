"""The decode stage: latents to frames, without those that are no part of the video."""

import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..vae.codec import Codec, OnTile, without_first


class Decoding(NamedTuple):
    """Decode by `codec`, less the first `lost` frames of each sample."""

    codec: Codec
    lost: int

    def video(self, latents: Tensor, cancel: threading.Event | None) -> Tensor:
        """Decode samples `[B, C, T, H, W]` to `[B, 3, T', H', W']` in [0, 1]."""
        if cancel is None:
            return self.codec.decode(latents)[:, :, self.lost :]
        return torch.stack(
            [torch.cat(list(self.chunks(each, None, cancel)), 1) for each in latents]
        )

    def chunks(
        self, sample: Tensor, on_tile: OnTile | None, cancel: threading.Event | None
    ) -> Iterator[Tensor]:
        """Decode one sample `[C, T, H, W]` to chunks `[3, t, H', W']` as they are ready.

        The first `lost` frames are left out.
        """
        chunks = self.codec.stream(sample, on_tile=on_tile, cancel=cancel)
        return without_first(chunks, self.lost)
