"""GELU, tanh approximation, of rows in place: 2 passes, here over the MLP's hidden values."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import SPAN, LaunchConfig, cdiv, check_rows, launch, launch_config
from .registration import register_op
from .row_tile import INTERPRETED

OP = "gelu_tanh"
DEFAULT = LaunchConfig(rows=8, num_warps=4)
# 1 / (1 + 2ᵛ) to within 2 units in the last place; a division, with its checks of range, would be
# half of the kernel's instructions.
LOGISTIC = tl.constexpr("""{
    .reg .f32 t;
    ex2.approx.ftz.f32 t, $1;
    add.f32 t, t, 0f3f800000;
    rcp.approx.ftz.f32 $0, t;
}""")


@triton.jit
def gelu(x):
    """0.5·x·(1 + tanh u) with u = √(2/π)·(x + 0.044715·x³), where (1 + tanh u)/2 = 1/(1 + e⁻²ᵘ)."""
    v = x * (-2.302208198144325 - 0.1029432395800235 * x * x)  # −2u·log₂e
    if INTERPRETED:
        return x / (1.0 + tl.exp2(v))
    return x * tl.inline_asm_elementwise(LOGISTIC, "=f,f", [v], tl.float32, True, 1)


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
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(2).to(tl.int64)
    mask = (rows < S)[:, None] & (cols < N)[None, :]
    x_ptrs = x_ptr + batch * stride_xb + rows.to(tl.int64)[:, None] * stride_xs + cols[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    tl.store(x_ptrs, gelu(x).to(x_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["x"])
def gelu_tanh_(x: Tensor) -> None:
    batch, seq, width = x.shape
    check_rows(OP, x=x)
    if x.numel() == 0:
        return
    config = launch_config(OP, SPAN, x.device, DEFAULT)
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
