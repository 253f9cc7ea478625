"""The residual x + gate·branch and its modulated LayerNorm, one pass: 4 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import load_rows, load_vector, row_layer_norm, row_tile, store_rows

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
):
    batch, rows, cols, mask = row_tile(S, C, BLOCK_M, BLOCK_C)
    x = load_rows(x_ptr, stride_xb, stride_xs, batch, rows, cols, mask)
    branch = load_rows(branch_ptr, stride_bb, stride_bs, batch, rows, cols, mask)
    gate = load_vector(gate_ptr + batch * stride_gate, cols, C)
    residual = (x + gate * branch).to(residual_ptr.dtype.element_ty)
    store_rows(residual_ptr, stride_rb, stride_rs, batch, rows, cols, mask, residual)
    # The rounded residual: whoever normalises it from memory gets the same.
    normed = row_layer_norm(residual.to(tl.float32), mask, C)
    shift = load_vector(shift_ptr + batch * stride_shift, cols, C)
    scale = load_vector(scale_ptr + batch * stride_scale, cols, C)
    out = normed * (1.0 + scale) + shift
    store_rows(out_ptr, stride_ob, stride_os, batch, rows, cols, mask, out)


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
