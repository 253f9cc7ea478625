"""Rows in FP8: e4m3 values, and one scale for each row by which they are to be multiplied.

What ops that quantize give, and what products in FP8 take (`models/fp8.py`). e4m3 is floating: with
the largest value of a row at its largest, 448, values down to 2⁻¹⁴·⁸ of that keep 4 bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
TINY = 2.0**-126  # of scales: that of a row of zeros, which nothing may be divided by


class Quantized(NamedTuple):
    """`values [B, S, K]` e4m3 times `scale [B, S, 1]` fp32."""

    values: Tensor
    scale: Tensor

    @classmethod
    def of_bytes(cls, values: Tensor, scale: Tensor) -> "Quantized":
        """The rows whose values are these bytes, as ops of torch.library take them.

        Its checks of ops compute with what these write, which nothing does with e4m3.
        """
        return cls(values.view(E4M3), scale)

    def as_bytes(self) -> tuple[Tensor, Tensor]:
        return self.values.view(torch.uint8), self.scale

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def numel(self) -> int:
        return self.values.numel()

    def element_size(self) -> int:
        return self.values.element_size()

    def tensor_split(self, places: int | Sequence[int], dim: int) -> "list[Quantized]":
        """Pieces of rows, as of a tensor."""
        assert dim == 1
        parts = (each.tensor_split(places, dim) for each in self)
        return [Quantized(*pair) for pair in zip(*parts, strict=True)]

    def reshape(self, shape: Sequence[int]) -> "Quantized":
        """The same rows in another `[B, S, K]`."""
        return Quantized(self.values.reshape(shape), self.scale.reshape(*shape[:-1], 1))

    def decoded(self) -> Tensor:
        """What the values stand for, fp32."""
        return self.values.float() * self.scale


def quantized_buffer(like: Tensor, shape: tuple[int, ...]) -> Quantized:
    """Memory for rows of `shape` on the device of `like`."""
    values = torch.empty(shape, dtype=E4M3, device=like.device)
    scale = torch.empty((*shape[:-1], 1), dtype=torch.float32, device=like.device)
    return Quantized(values, scale)


def check_quantized(op: str, rows: Quantized, shape: Sequence[int]) -> None:
    """Raise ValueError unless `rows` are memory for e4m3 rows of `shape`."""
    values, scale = rows
    if values.dtype != E4M3 or scale.dtype != torch.float32:
        raise ValueError(f"{op}: out must be e4m3 and fp32, got {values.dtype}, {scale.dtype}")
    if tuple(values.shape) != tuple(shape) or tuple(scale.shape) != (*shape[:-1], 1):
        raise ValueError(
            f"{op}: out must be {list(shape)} with a scale a row, got {list(values.shape)} and "
            f"{list(scale.shape)}"
        )
    if values.stride(-1) != 1:
        raise ValueError(f"{op}: out must be contiguous along its last axis")
