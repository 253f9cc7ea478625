"""[attention, GELU(mlp)] in one buffer, the input of `linear2`: one pass, no concatenation.

Where the attention wrote its slice of the buffer itself, only the MLP half is moved.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gelu_tanh import BLOCK_N, gelu, gelu_tanh_into
from .launch import cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "attention_mlp"


@triton.jit
def _attention_mlp_kernel(
    attention_ptr,
    mlp_ptr,
    out_ptr,
    S,
    C,
    N,
    stride_ab,
    stride_as,
    stride_mb,
    stride_ms,
    stride_ob,
    stride_os,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A program's columns are of one input: the first cdiv(C, BLOCK_N) of the attention."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = tl.program_id(2).to(tl.int64)
    offs_m = rows.to(tl.int64)[:, None]
    block = tl.program_id(1)
    copies = tl.cdiv(C, BLOCK_N)
    out_row_ptrs = out_ptr + batch * stride_ob + offs_m * stride_os
    if block < copies:
        cols = block * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = (rows < S)[:, None] & (cols < C)[None, :]
        from_ptrs = attention_ptr + batch * stride_ab + offs_m * stride_as + cols[None, :]
        tl.store(out_row_ptrs + cols[None, :], tl.load(from_ptrs, mask=mask), mask=mask)
    else:
        cols = (block - copies) * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = (rows < S)[:, None] & (cols < N)[None, :]
        from_ptrs = mlp_ptr + batch * stride_mb + offs_m * stride_ms + cols[None, :]
        x = tl.load(from_ptrs, mask=mask, other=0.0).to(tl.float32)
        out_ptrs = out_row_ptrs + C + cols[None, :]
        tl.store(out_ptrs, gelu(x).to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def attention_mlp_into(attention: Tensor, mlp: Tensor, out: Tensor) -> None:
    batch, seq, width = attention.shape
    hidden = mlp.shape[2]
    check_rows(OP, attention=attention, mlp=mlp, out=out)
    check_shape(OP, "mlp", mlp, (batch, seq, hidden))
    check_shape(OP, "out", out, (batch, seq, width + hidden))
    if out.numel() == 0:
        return
    config = launch_config(OP, BLOCK_N, out.device)
    launch(
        _attention_mlp_kernel,
        (cdiv(seq, config.rows), cdiv(width, BLOCK_N) + cdiv(hidden, BLOCK_N), batch),
        attention,
        mlp,
        out,
        seq,
        width,
        hidden,
        *attention.stride()[:2],
        *mlp.stride()[:2],
        *out.stride()[:2],
        BLOCK_M=config.rows,
        BLOCK_N=BLOCK_N,
        num_warps=config.num_warps,
        on=out,
    )


def attention_mlp(
    attention: Tensor, mlp: Tensor, out: Tensor | None = None, placed: bool = False
) -> Tensor:
    width = attention.shape[-1]
    if out is None:
        shape = (*attention.shape[:-1], width + mlp.shape[-1])
        out = torch.empty(shape, dtype=mlp.dtype, device=mlp.device)
    if placed:
        gelu_tanh_into(mlp, out[..., width:])
    else:
        attention_mlp_into(attention, mlp, out)
    return out
