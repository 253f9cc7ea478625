"""The residual x + gate·branch and its modulated LayerNorm, one pass: 4 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
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

OP = "gate_residual_layer_norm_modulate"


@triton.jit
def _gate_residual_layer_norm_modulate_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    residual_ptr,
    out_ptr,
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
        out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
        store_rows(out_ptrs, mask, C, BLOCK_C, multiply_add(normed, scale, shift))


@register_op(mutates=["residual", "out"])
def gate_residual_layer_norm_modulate_into(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    residual: Tensor,
    out: Tensor,
) -> None:
    batch, _, width = x.shape
    vectors = {"gate": gate, "shift": shift, "scale": scale}
    rows = {"branch": branch, "residual": residual, "out": out}
    check_rows(OP, x=x, **rows, **vectors)
    for name, vector in vectors.items():
        check_shape(OP, name, vector, (batch, width))
    for name, tensor in rows.items():
        check_shape(OP, name, tensor, x.shape)
    tensors = x, branch, gate, shift, scale, residual, out
    launch_rows(OP, _gate_residual_layer_norm_modulate_kernel, *tensors)


@recomputed()
def gate_residual_layer_norm_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    out: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    residual, modulated = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if each is None else each
        for each in out
    )
    gate_residual_layer_norm_modulate_into(x, branch, gate, shift, scale, residual, modulated)
    return residual, modulated
