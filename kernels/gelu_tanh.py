"""GELU, tanh approximation, of rows into rows, in place or into a slice of another buffer."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "gelu_tanh"
BLOCK_N = 1024  # columns of a program


@triton.jit
def gelu(x):
    """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) of fp32, where (1 + tanh u)/2 = 1/(1 + e⁻²ᵘ)."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.exp(-2.0 * u))


@triton.jit
def _gelu_tanh_kernel(
    x_ptr,
    out_ptr,
    S,
    N,
    stride_xb,
    stride_xs,
    stride_ob,
    stride_os,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(2).to(tl.int64)
    mask = (rows < S)[:, None] & (cols < N)[None, :]
    offs_m = rows.to(tl.int64)[:, None]
    x_ptrs = x_ptr + batch * stride_xb + offs_m * stride_xs + cols[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    out_ptrs = out_ptr + batch * stride_ob + offs_m * stride_os + cols[None, :]
    tl.store(out_ptrs, gelu(x).to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def gelu_tanh_into(x: Tensor, out: Tensor) -> None:
    batch, seq, width = x.shape
    check_rows(OP, x=x, out=out)
    check_shape(OP, "out", out, x.shape)
    if x.numel() == 0:
        return
    config = launch_config(OP, BLOCK_N, x.device)
    launch(
        _gelu_tanh_kernel,
        (cdiv(seq, config.rows), cdiv(width, BLOCK_N), batch),
        x,
        out,
        seq,
        width,
        *x.stride()[:2],
        *out.stride()[:2],
        BLOCK_M=config.rows,
        BLOCK_N=BLOCK_N,
        num_warps=config.num_warps,
        on=x,
    )


@register_op(mutates=["x"])
def gelu_tanh_(x: Tensor) -> None:
    gelu_tanh_into.launcher(x, x)


def gelu_tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        gelu_tanh_(x)
        return x
    gelu_tanh_into(x, out)
    return out
