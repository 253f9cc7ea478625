"""The residual x + gate·branch and its modulated LayerNorm, one pass: 4 activations moved."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import cdiv, check_rows, check_shape, launch, launch_config, next_power_of_2
from .registration import register_op
from .row_norm import row_layer_norm

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
    S,
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
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)
    valid = cols < C
    mask = (rows < S)[:, None] & valid[None, :]
    offs_m = rows.to(tl.int64)[:, None]
    x_ptrs = x_ptr + batch * stride_xb + offs_m * stride_xs + cols[None, :]
    branch_ptrs = branch_ptr + batch * stride_bb + offs_m * stride_bs + cols[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    branch = tl.load(branch_ptrs, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + batch * stride_gate + cols, mask=valid, other=0.0).to(tl.float32)
    residual = (x + gate[None, :] * branch).to(residual_ptr.dtype.element_ty)
    residual_ptrs = residual_ptr + batch * stride_rb + offs_m * stride_rs + cols[None, :]
    tl.store(residual_ptrs, residual, mask=mask)
    # Of the rounded residual: whoever normalises it from memory gets the same.
    normed = row_layer_norm(residual.to(tl.float32), mask, C)
    shift = tl.load(shift_ptr + batch * stride_shift + cols, mask=valid, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + batch * stride_scale + cols, mask=valid, other=0.0).to(tl.float32)
    out = normed * (1.0 + scale)[None, :] + shift[None, :]
    out_ptrs = out_ptr + batch * stride_ob + offs_m * stride_os + cols[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


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
    batch, seq, width = x.shape
    vectors = {"gate": gate, "shift": shift, "scale": scale}
    rows = {"branch": branch, "residual": residual, "out": out}
    check_rows(OP, x=x, **rows, **vectors)
    for name, vector in vectors.items():
        check_shape(OP, name, vector, (batch, width))
    for name, tensor in rows.items():
        check_shape(OP, name, tensor, x.shape)
    if x.numel() == 0:
        return
    config = launch_config(OP, width, x.device)
    launch(
        _gate_residual_layer_norm_modulate_kernel,
        (cdiv(seq, config.rows), batch),
        x,
        branch,
        gate,
        shift,
        scale,
        residual,
        out,
        seq,
        *x.stride()[:2],
        *branch.stride()[:2],
        gate.stride(0),
        shift.stride(0),
        scale.stride(0),
        *residual.stride()[:2],
        *out.stride()[:2],
        C=width,
        BLOCK_M=config.rows,
        BLOCK_C=next_power_of_2(width),
        num_warps=config.num_warps,
        on=x,
    )


@recomputed(
    "(Tensor x, Tensor branch, Tensor gate, Tensor shift, Tensor scale) -> (Tensor, Tensor)"
)
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
