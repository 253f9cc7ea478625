"""Heads divided by scales that are on the device, in e4m3: 1.5 activations moved; and such scales.

`scale_heads` looks at its values where a scale is still 0, which one launch finds out and none else
pays for: afterwards its programs end at once. So a captured step is the same launches throughout.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import LARGEST, TINY, to_e4m3
from .fp8_reference import HEADROOM
from .launch import cdiv, check_rows, check_shape, launch, launch_rows, next_power_of_2
from .quantized import E4M3
from .registration import register_op
from .row_tile import columns, load_part, rows_of_turn, store_part

OP = "quantize_heads"
SHARE = 64  # rows of which a program finds the largest values
HEADROOM_ = tl.constexpr(HEADROOM)


@triton.jit
def _quantize_heads_kernel(
    x_ptr,
    scale_ptr,
    out_ptr,
    stride_xb,
    stride_xs,
    stride_scale,
    stride_ob,
    stride_os,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TURNS: tl.constexpr,
    COLUMNS_OF_SCALE: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    inverses = ()
    for part in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        cols, is_col = columns(part, tl.full((1, 1), 1, tl.int1), C, BLOCK_C)
        ptrs = scale_ptr + batch * stride_scale + cols // COLUMNS_OF_SCALE
        inverses = inverses + (1.0 / tl.load(ptrs, mask=is_col, other=1.0),)
    for turn in range(TURNS):
        rows, mask = rows_of_turn(turn, S, BLOCK_M, TURNS)
        x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        for part in tl.static_range(len(inverses)):
            x = load_part(x_ptrs, part, mask, C, BLOCK_C)
            store_part(out_ptrs, part, mask, C, BLOCK_C, to_e4m3(x * inverses[part]))


@register_op(mutates=["out"])
def quantize_heads_into(x: Tensor, scale: Tensor, out: Tensor) -> None:
    batch, _, heads, width = x.shape
    check_rows(OP, x=x, scale=scale)
    check_shape(OP, "scale", scale, (batch, scale.shape[1]))
    check_shape(OP, "out", out, x.shape)
    if scale.shape[1] not in (1, heads):
        raise ValueError(f"{OP}: scale must be one, or one of {heads} heads, got {scale.shape[1]}")
    columns_of_scale = width if scale.shape[1] == heads else heads * width
    rows, values = x.flatten(2), out.view(E4M3).flatten(2)
    constants = {"COLUMNS_OF_SCALE": columns_of_scale}
    launch_rows(OP, _quantize_heads_kernel, rows, scale, values, **constants)


def quantize_heads(x: Tensor, scale: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=E4M3, device=x.device)
    quantize_heads_into(x, scale, out.view(torch.uint8))
    return out


@triton.jit
def _largest_heads_kernel(
    x_ptr,
    scale_ptr,
    largest_ptr,
    stride_xb,
    stride_xs,
    stride_xh,
    stride_scale,
    S,
    H: tl.constexpr,
    D: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The largest magnitude of each head in SHARE rows, unless the sample has scales."""
    batch = tl.program_id(1).to(tl.int64)
    if tl.load(scale_ptr + batch * stride_scale) > 0:
        return
    heads, cols = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    offsets, is_here = heads.to(tl.int64) * stride_xh + cols, (heads < H) & (cols < D)
    largest = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    for index in range(SHARE):
        row = (tl.program_id(0) * SHARE + index).to(tl.int64)
        ptrs = x_ptr + batch * stride_xb + row * stride_xs + offsets
        x = tl.load(ptrs, mask=is_here & (row < S), other=0.0)
        largest = tl.maximum(largest, tl.abs(x.to(tl.float32)))
    place = (batch * tl.num_programs(0) + tl.program_id(0)) * H
    heads = tl.arange(0, BLOCK_H)
    tl.store(largest_ptr + place + heads, tl.max(largest, axis=1), mask=heads < H)


@triton.jit
def _scale_heads_kernel(
    largest_ptr,
    scale_ptr,
    stride_scale,
    SHARES,
    H: tl.constexpr,
    IS_ONE: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """The scales of a sample from the largest of all shares, unless it has some."""
    batch = tl.program_id(0).to(tl.int64)
    if tl.load(scale_ptr + batch * stride_scale) > 0:
        return
    heads = tl.arange(0, BLOCK_H)
    largest = tl.zeros((BLOCK_H,), tl.float32)
    for share in range(SHARES):
        ptrs = largest_ptr + (batch * SHARES + share) * H + heads
        largest = tl.maximum(largest, tl.load(ptrs, mask=heads < H, other=0.0))
    if IS_ONE:
        scale = tl.maximum(tl.max(largest, axis=0) * (HEADROOM_ / LARGEST), TINY)
        tl.store(scale_ptr + batch * stride_scale, scale)
    else:
        scale = tl.maximum(largest * (HEADROOM_ / LARGEST), TINY)
        tl.store(scale_ptr + batch * stride_scale + heads, scale, mask=heads < H)


@register_op(mutates=["scale"])
def scale_heads(x: Tensor, scale: Tensor) -> None:
    batch, seq, heads, width = x.shape
    check_rows("scale_heads", x=x, scale=scale)
    check_shape("scale_heads", "scale", scale, (batch, scale.shape[1]))
    if x.numel() == 0:
        return
    shares, block = cdiv(seq, SHARE), next_power_of_2(heads)
    largest = torch.empty(batch, shares, heads, dtype=torch.float32, device=x.device)
    sizes = {"H": heads, "BLOCK_H": block}
    launch(
        _largest_heads_kernel,
        (shares, batch),
        x,
        scale,
        largest,
        *x.stride()[:3],
        scale.stride(0),
        seq,
        D=width,
        SHARE=SHARE,
        BLOCK_D=next_power_of_2(width),
        **sizes,
        num_warps=4,
        on=x,
    )
    constants = {**sizes, "IS_ONE": scale.shape[1] == 1 and heads > 1}
    args = largest, scale, scale.stride(0), shares
    launch(_scale_heads_kernel, (batch,), *args, **constants, num_warps=1, on=x)
