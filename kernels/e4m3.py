"""Rounding to e4m3 in a kernel: of values, and of rows with the scale of each.

Rows are tuples of parts as in `row_tile`. GPUs round in one instruction, to nearest even, and cut
what is beyond the largest value to it; Triton's interpreter cuts digits off, so there they are
rounded before.
"""

import triton
import triton.language as tl

from .row_tile import INTERPRETED

LARGEST = tl.constexpr(448.0)
TINY = tl.constexpr(2.0**-126)  # of scales: that of a row of zeros


@triton.jit
def to_e4m3(x):
    """`x` fp32 in e4m3."""
    if INTERPRETED:
        x = _rounded(tl.minimum(tl.maximum(x, -LARGEST), LARGEST))
    return x.to(tl.float8e4nv)


@triton.jit
def _rounded(x):
    """The nearest values of e4m3: 3 bits after the first, from 2⁻⁶ on; below, multiples of 2⁻⁹."""
    bits = x.to(tl.int32, bitcast=True)
    kept = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
    coarse = 24576.0  # 1.5·2¹⁴, whose last bit is 2⁻⁹
    return tl.where(tl.abs(x) < 2.0**-6, (x + coarse) - coarse, kept.to(tl.float32, bitcast=True))


@triton.jit
def row_largest(row):
    """The largest magnitude `[BLOCK_M]` of each row."""
    largest = tl.abs(row[0])
    for part in tl.static_range(1, len(row)):
        largest = tl.maximum(largest, tl.abs(row[part]))
    return tl.max(largest, axis=1)


@triton.jit
def scale_of(largest):
    """The scale `[BLOCK_M, 1]` that brings `largest [BLOCK_M]` to the largest value."""
    return tl.maximum(largest / LARGEST, TINY)[:, None]


@triton.jit
def quantized_row(row, scale):
    """`row` divided by `scale [BLOCK_M, 1]`, part by part, in e4m3."""
    inverse = 1.0 / scale
    out = ()
    for part in tl.static_range(len(row)):
        out = out + (to_e4m3(row[part] * inverse),)
    return out
