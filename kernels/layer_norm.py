"""Affine LayerNorm of rows (the token refiner's), one pass."""

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
    row_layer_norm,
    rows_of_turn,
    store_rows,
)


@triton.jit
def _layer_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    stride_xb,
    stride_xs,
    stride_ob,
    stride_os,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TURNS: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    weight, bias = load_vector(weight_ptr, C, BLOCK_C), load_vector(bias_ptr, C, BLOCK_C)
    for turn in range(TURNS):
        rows, mask = rows_of_turn(turn, S, BLOCK_M, TURNS)
        x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
        x = load_rows(x_ptrs, mask, C, BLOCK_C)
        normed = row_layer_norm(x, load_samples(x_ptrs, mask, C), C, BLOCK_C)
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        store_rows(out_ptrs, mask, C, BLOCK_C, multiply_add(normed, weight, bias))


@register_op(mutates=["out"])
def layer_norm_into(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    width = x.shape[2]
    check_rows("layer_norm", x=x, weight=weight, bias=bias, out=out)
    check_shape("layer_norm", "weight", weight, (width,))
    check_shape("layer_norm", "bias", bias, (width,))
    check_shape("layer_norm", "out", out, x.shape)
    launch_rows("layer_norm", _layer_norm_kernel, x, weight, bias, out)


@recomputed()
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    layer_norm_into(x, weight, bias, out)
    return out
