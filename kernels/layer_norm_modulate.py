"""LayerNorm(x)·(1 + scale) + shift of rows, one pass: 2 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import load_rows, load_vector, row_layer_norm, row_tile, store_rows


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
):
    batch, rows, cols, mask = row_tile(S, C, BLOCK_M, BLOCK_C)
    x = load_rows(x_ptr, stride_xb, stride_xs, batch, rows, cols, mask)
    shift = load_vector(shift_ptr + batch * stride_shift, cols, C)
    scale = load_vector(scale_ptr + batch * stride_scale, cols, C)
    out = row_layer_norm(x, mask, C) * (1.0 + scale) + shift
    store_rows(out_ptr, stride_ob, stride_os, batch, rows, cols, mask, out)


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
