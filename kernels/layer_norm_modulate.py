"""LayerNorm(x)·(1 + scale) + shift of rows, one pass: 2 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import (
    load_rows,
    load_samples,
    load_vector,
    multiply_add,
    one_plus,
    row_layer_norm,
    rows_of_turn,
    store_rows,
)


@triton.jit
def _layer_norm_modulate_kernel(
    x_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    stride_xb,
    stride_xs,
    stride_shift,
    stride_scale,
    stride_ob,
    stride_os,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TURNS: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    shift = load_vector(shift_ptr + batch * stride_shift, C, BLOCK_C)
    scale = one_plus(load_vector(scale_ptr + batch * stride_scale, C, BLOCK_C))
    for turn in range(TURNS):
        rows, mask = rows_of_turn(turn, S, BLOCK_M, TURNS)
        x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
        x = load_rows(x_ptrs, mask, C, BLOCK_C)
        normed = row_layer_norm(x, load_samples(x_ptrs, mask, C), C, BLOCK_C)
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        store_rows(out_ptrs, mask, C, BLOCK_C, multiply_add(normed, scale, shift))


@register_op(mutates=["out"])
def layer_norm_modulate_into(x: Tensor, shift: Tensor, scale: Tensor, out: Tensor) -> None:
    batch, _, width = x.shape
    check_rows("layer_norm_modulate", x=x, shift=shift, scale=scale, out=out)
    check_shape("layer_norm_modulate", "shift", shift, (batch, width))
    check_shape("layer_norm_modulate", "scale", scale, (batch, width))
    check_shape("layer_norm_modulate", "out", out, x.shape)
    launch_rows("layer_norm_modulate", _layer_norm_modulate_kernel, x, shift, scale, out)


@recomputed()
def layer_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, out: Tensor | None = None
) -> Tensor:
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
    layer_norm_modulate_into(x, shift, scale, out)
    return out
