"""LayerNorm(x)·(1 + scale) + shift of rows, quantized, one pass: 1.5 activations moved."""

import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import quantized_row, row_largest, scale_of
from .launch import check_rows, check_shape, launch_rows
from .quantized import Quantized, check_quantized, quantized_buffer
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

OP = "layer_norm_modulate_quantize"


@triton.jit
def _layer_norm_modulate_quantize_kernel(
    x_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    row_scale_ptr,
    stride_xb,
    stride_xs,
    stride_shift,
    stride_scale,
    stride_ob,
    stride_os,
    stride_cb,
    stride_cs,
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
        out = multiply_add(normed, scale, shift)
        row_scale = scale_of(row_largest(out))
        tl.store(row_scale_ptr + batch * stride_cb + rows * stride_cs, row_scale, mask=mask)
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        store_rows(out_ptrs, mask, C, BLOCK_C, quantized_row(out, row_scale))


@register_op(mutates=["values", "row_scale"])
def layer_norm_modulate_quantize_into(
    x: Tensor, shift: Tensor, scale: Tensor, values: Tensor, row_scale: Tensor
) -> None:
    batch, _, width = x.shape
    check_rows(OP, x=x, shift=shift, scale=scale)
    check_shape(OP, "shift", shift, (batch, width))
    check_shape(OP, "scale", scale, (batch, width))
    out = Quantized.of_bytes(values, row_scale)
    check_quantized(OP, out, x.shape)
    kernel = _layer_norm_modulate_quantize_kernel
    launch_rows(OP, kernel, x, shift, scale, *out)


def layer_norm_modulate_quantize(
    x: Tensor, shift: Tensor, scale: Tensor, out: Quantized | None = None
) -> Quantized:
    out = quantized_buffer(x, x.shape) if out is None else out
    layer_norm_modulate_quantize_into(x, shift, scale, *out.as_bytes())
    return out
