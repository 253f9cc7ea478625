"""x + gate·branch of rows, one pass, into any buffer: 3 activations moved.

The last block's writes straight into a cache policy's buffer, so that keeping it costs nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import load_rows, load_vector, multiply_add, rows_of_turn, store_rows


@triton.jit
def _gate_residual_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    out_ptr,
    stride_xb,
    stride_xs,
    stride_bb,
    stride_bs,
    stride_gate,
    stride_ob,
    stride_os,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TURNS: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    gate = load_vector(gate_ptr + batch * stride_gate, C, BLOCK_C)
    rows, _ = rows_of_turn(0, S, BLOCK_M, TURNS)
    x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
    branch_ptrs = branch_ptr + batch * stride_bb + rows * stride_bs
    out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
    for turn in range(TURNS):
        rows, mask = rows_of_turn(turn, S, BLOCK_M, TURNS)
        x = load_rows(x_ptrs, mask, C, BLOCK_C)
        branch = load_rows(branch_ptrs, mask, C, BLOCK_C)
        store_rows(out_ptrs, mask, C, BLOCK_C, multiply_add(branch, gate, x))
        x_ptrs += BLOCK_M * stride_xs
        branch_ptrs += BLOCK_M * stride_bs
        out_ptrs += BLOCK_M * stride_os


@register_op(mutates=["out"])
def gate_residual_into(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor) -> None:
    batch, _, width = x.shape
    check_rows("gate_residual", x=x, branch=branch, gate=gate, out=out)
    check_shape("gate_residual", "branch", branch, x.shape)
    check_shape("gate_residual", "gate", gate, (batch, width))
    check_shape("gate_residual", "out", out, x.shape)
    launch_rows("gate_residual", _gate_residual_kernel, x, branch, gate, out)


@recomputed()
def gate_residual(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
    gate_residual_into(x, branch, gate, out)
    return out
