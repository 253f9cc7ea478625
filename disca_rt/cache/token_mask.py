"""Masks of image tokens: hashable, as policies that depend on them are."""

from typing import NamedTuple

import torch
from torch import Tensor


class TokenMask(NamedTuple):
    """One byte for each of the image tokens of `grid`, (T, H, W) in patches: 1 of those chosen."""

    grid: tuple[int, int, int]
    rows: bytes

    @classmethod
    def of(cls, chosen: Tensor) -> "TokenMask":
        """The mask of the tokens where `chosen [T, H, W]` is true."""
        return cls(tuple(chosen.shape), chosen.bool().byte().cpu().numpy().tobytes())

    def count(self, start: int = 0, stop: int | None = None) -> int:
        """How many are chosen of the tokens numbered `start` to `stop` - 1."""
        return self.rows[start:stop].count(1)

    def tensor(self) -> Tensor:
        """The mask as uint8 `[T, H, W]`, on the CPU."""
        return torch.frombuffer(bytearray(self.rows), dtype=torch.uint8).view(self.grid)
