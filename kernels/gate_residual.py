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
from .row_tile import load_rows, load_vector, row_tile, store_rows


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
):
    batch, rows, cols, mask = row_tile(S, C, BLOCK_M, BLOCK_C)
    x = load_rows(x_ptr, stride_xb, stride_xs, batch, rows, cols, mask)
    branch = load_rows(branch_ptr, stride_bb, stride_bs, batch, rows, cols, mask)
    gate = load_vector(gate_ptr + batch * stride_gate, cols, C)
    store_rows(out_ptr, stride_ob, stride_os, batch, rows, cols, mask, x + gate * branch)


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
