"""The product of FP8 rows and an FP8 weight, each row of both with its scale, by the library.

Where the library has none (a CPU, fp32, widths that are no multiples of 16) it is the reference's.
"""

import torch
from torch import Tensor

from . import fp8_reference
from .quantized import Quantized

WIDTHS = 16  # of inputs and outputs: the library wants multiples


def scaled_linear(
    x: Quantized, weight: Tensor, scale: Tensor, bias: Tensor, out: Tensor | None = None
) -> Tensor:
    if not _has_kernel(weight, bias):
        return fp8_reference.scaled_linear(x, weight, scale, bias)
    if out is None:
        shape = (*x.shape[:2], len(weight))
        out = torch.empty(shape, dtype=bias.dtype, device=bias.device)
    tensors = *x, out
    whole = all(each.is_contiguous() for each in tensors)
    samples = (
        [tuple(each.flatten(0, 1) for each in tensors)] if whole else zip(*tensors, strict=True)
    )
    for values, of_rows, rows in samples:  # the rows of a sample lie together, also in slices
        torch.ops.aten._scaled_mm.out(
            values,
            weight.T,
            of_rows,
            scale.T,
            bias=bias,
            out_dtype=bias.dtype,
            use_fast_accum=True,
            out=rows,
        )
    return out


def _has_kernel(weight: Tensor, bias: Tensor) -> bool:
    is_whole = all(size % WIDTHS == 0 for size in weight.shape)
    return bias.device.type == "cuda" and bias.dtype != torch.float32 and is_whole
