"""GELU, tanh approximation, of rows in place: 2 passes, here over the MLP's hidden values."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import SPAN, cdiv, check_rows, launch, launch_config
from .registration import register_op

OP = "gelu_tanh"


@triton.jit
def _gelu_tanh_kernel(
    x_ptr,
    S,
    N,
    stride_xb,
    stride_xs,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """0.5·x·(1 + tanh u) with u = √(2/π)·(x + 0.044715·x³), where (1 + tanh u)/2 = 1/(1 + e⁻²ᵘ)."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(2).to(tl.int64)
    mask = (rows < S)[:, None] & (cols < N)[None, :]
    x_ptrs = x_ptr + batch * stride_xb + rows.to(tl.int64)[:, None] * stride_xs + cols[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    tl.store(x_ptrs, (x / (1.0 + tl.exp(-2.0 * u))).to(x_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["x"])
def gelu_tanh_(x: Tensor) -> None:
    batch, seq, width = x.shape
    check_rows(OP, x=x)
    if x.numel() == 0:
        return
    config = launch_config(OP, SPAN, x.device)
    launch(
        _gelu_tanh_kernel,
        (cdiv(seq, config.rows), cdiv(width, SPAN), batch),
        x,
        seq,
        width,
        *x.stride()[:2],
        BLOCK_M=config.rows,
        BLOCK_N=SPAN,
        num_warps=config.num_warps,
        on=x,
    )
