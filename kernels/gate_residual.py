"""x + gate·branch of rows, one pass, into any buffer: 3 activations moved.

The last block's writes straight into a cache policy's buffer, so that keeping it costs nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import cdiv, check_rows, check_shape, launch, launch_config, next_power_of_2
from .registration import register_op


@triton.jit
def _gate_residual_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    out_ptr,
    S,
    stride_xb,
    stride_xs,
    stride_bb,
    stride_bs,
    stride_gate,
    stride_ob,
    stride_os,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)
    mask = (rows < S)[:, None] & (cols < C)[None, :]
    offs_m = rows.to(tl.int64)[:, None]
    x_ptrs = x_ptr + batch * stride_xb + offs_m * stride_xs + cols[None, :]
    branch_ptrs = branch_ptr + batch * stride_bb + offs_m * stride_bs + cols[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    branch = tl.load(branch_ptrs, mask=mask, other=0.0).to(tl.float32)
    gate_ptrs = gate_ptr + batch * stride_gate + cols
    gate = tl.load(gate_ptrs, mask=cols < C, other=0.0).to(tl.float32)
    out_ptrs = out_ptr + batch * stride_ob + offs_m * stride_os + cols[None, :]
    out = x + gate[None, :] * branch
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def gate_residual_into(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor) -> None:
    batch, seq, width = x.shape
    check_rows("gate_residual", x=x, branch=branch, gate=gate, out=out)
    check_shape("gate_residual", "branch", branch, x.shape)
    check_shape("gate_residual", "gate", gate, (batch, width))
    check_shape("gate_residual", "out", out, x.shape)
    if x.numel() == 0:
        return
    config = launch_config("gate_residual", width, x.device)
    launch(
        _gate_residual_kernel,
        (cdiv(seq, config.rows), batch),
        x,
        branch,
        gate,
        out,
        seq,
        *x.stride()[:2],
        *branch.stride()[:2],
        gate.stride(0),
        *out.stride()[:2],
        C=width,
        BLOCK_M=config.rows,
        BLOCK_C=next_power_of_2(width),
        num_warps=config.num_warps,
        on=x,
    )


@recomputed("(Tensor x, Tensor branch, Tensor gate) -> Tensor")
def gate_residual(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
    gate_residual_into(x, branch, gate, out)
    return out
