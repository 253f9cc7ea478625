"""The residual x + gate·branch and its modulated LayerNorm, quantized: 3.5 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import quantized_row, row_largest, scale_of
from .launch import check_rows, check_shape, launch_rows
from .quantized import Quantized, check_quantized, quantized_buffer
from .registration import register_op
from .row_tile import (
    add_rows,
    load_samples,
    load_vector,
    multiply_add,
    one_plus,
    rows_of_turn,
    store_rows,
)

OP = "gate_residual_layer_norm_modulate_quantize"


@triton.jit
def _gate_residual_layer_norm_modulate_quantize_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    residual_ptr,
    out_ptr,
    row_scale_ptr,
    stride_xb,
    stride_xs,
    stride_bb,
    stride_bs,
    stride_gate,
    stride_shift,
    stride_scale,
    stride_rb,
    stride_rs,
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
    gate_ptr += batch * stride_gate
    gate, gate_samples = load_vector(gate_ptr, C, BLOCK_C), load_samples(gate_ptr, True, C)
    shift = load_vector(shift_ptr + batch * stride_shift, C, BLOCK_C)
    scale = one_plus(load_vector(scale_ptr + batch * stride_scale, C, BLOCK_C))
    for turn in range(TURNS):
        rows, mask = rows_of_turn(turn, S, BLOCK_M, TURNS)
        x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
        branch_ptrs = branch_ptr + batch * stride_bb + rows * stride_bs
        residual_ptrs = residual_ptr + batch * stride_rb + rows * stride_rs
        normed = add_rows(x_ptrs, branch_ptrs, residual_ptrs, gate, gate_samples, mask, C, BLOCK_C)
        out = multiply_add(normed, scale, shift)
        row_scale = scale_of(row_largest(out))
        tl.store(row_scale_ptr + batch * stride_cb + rows * stride_cs, row_scale, mask=mask)
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        store_rows(out_ptrs, mask, C, BLOCK_C, quantized_row(out, row_scale))


@register_op(mutates=["residual", "values", "row_scale"])
def gate_residual_layer_norm_modulate_quantize_into(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    residual: Tensor,
    values: Tensor,
    row_scale: Tensor,
) -> None:
    batch, _, width = x.shape
    vectors = {"gate": gate, "shift": shift, "scale": scale}
    rows = {"branch": branch, "residual": residual}
    check_rows(OP, x=x, **rows, **vectors)
    for name, vector in vectors.items():
        check_shape(OP, name, vector, (batch, width))
    for name, tensor in rows.items():
        check_shape(OP, name, tensor, x.shape)
    out = Quantized.of_bytes(values, row_scale)
    check_quantized(OP, out, x.shape)
    tensors = x, branch, gate, shift, scale, residual, *out
    launch_rows(OP, _gate_residual_layer_norm_modulate_quantize_kernel, *tensors)


def gate_residual_layer_norm_modulate_quantize(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    out: tuple[Tensor | None, Quantized | None] = (None, None),
) -> tuple[Tensor, Quantized]:
    residual, normed = out
    if residual is None:
        residual = torch.empty_like(x, memory_format=torch.contiguous_format)
    normed = quantized_buffer(x, x.shape) if normed is None else normed
    gate_residual_layer_norm_modulate_quantize_into(
        x, branch, gate, shift, scale, residual, *normed.as_bytes()
    )
    return residual, normed
