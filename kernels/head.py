"""The final layer, modulated LayerNorm and a narrow linear, in one pass over the tokens."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    LaunchConfig,
    cdiv,
    check_rows,
    check_shape,
    launch,
    launch_config,
    next_power_of_2,
)
from .registration import register_op
from .row_norm import NORM_EPS

OP = "head"
BLOCK_K = 64
MIN_DOT = 16  # columns of a matrix product, at least
DEFAULT = LaunchConfig(rows=64, num_warps=4)


@triton.jit
def _head_kernel(
    x_ptr,
    shift_ptr,
    scale_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    S,
    stride_xb,
    stride_xs,
    stride_shift,
    stride_scale,
    C: tl.constexpr,
    N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = tl.program_id(1).to(tl.int64)
    in_rows = rows < S
    row_ptrs = x_ptr + batch * stride_xb + rows.to(tl.int64)[:, None] * stride_xs
    mean = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, C, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        mask = in_rows[:, None] & (cols < C)[None, :]
        x = tl.load(row_ptrs + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        mean += tl.sum(x, axis=1)
    mean = mean / C
    variance = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, C, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        mask = in_rows[:, None] & (cols < C)[None, :]
        x = tl.load(row_ptrs + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, x - mean[:, None], 0.0)
        variance += tl.sum(centred * centred, axis=1)
    rstd = 1.0 / tl.sqrt(variance / C + NORM_EPS)
    outs = tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, C, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        valid = cols < C
        mask = in_rows[:, None] & valid[None, :]
        x = tl.load(row_ptrs + cols[None, :], mask=mask, other=0.0).to(tl.float32)
        shift_ptrs = shift_ptr + batch * stride_shift + cols
        scale_ptrs = scale_ptr + batch * stride_scale + cols
        shift = tl.load(shift_ptrs, mask=valid, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptrs, mask=valid, other=0.0).to(tl.float32)
        normed = (x - mean[:, None]) * rstd[:, None] * (1.0 + scale)[None, :] + shift[None, :]
        normed = tl.where(mask, normed, 0.0)
        weight_ptrs = weight_ptr + outs[None, :] * C + cols[:, None]
        weight_mask = valid[:, None] & (outs < N)[None, :]
        weight = tl.load(weight_ptrs, mask=weight_mask, other=0.0)
        acc = tl.dot(normed.to(weight.dtype), weight, acc, input_precision="ieee")
    acc += tl.load(bias_ptr + outs, mask=outs < N, other=0.0).to(tl.float32)[None, :]
    out_rows = (batch * S + rows.to(tl.int64))[:, None]
    out_mask = in_rows[:, None] & (outs < N)[None, :]
    out_ptrs = out_ptr + out_rows * N + outs[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=out_mask)


@register_op(mutates=["out"])
def head_into(
    x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, out: Tensor
) -> None:
    batch, seq, width = x.shape
    outs = len(weight)
    check_rows(OP, x=x, shift=shift, scale=scale, weight=weight, bias=bias, out=out)
    check_shape(OP, "shift", shift, (batch, width))
    check_shape(OP, "scale", scale, (batch, width))
    check_shape(OP, "weight", weight, (outs, width))
    if out.numel() == 0:
        return
    config = launch_config(OP, width, x.device, DEFAULT)
    launch(
        _head_kernel,
        (cdiv(seq, config.rows), batch),
        x,
        shift,
        scale,
        weight.contiguous(),
        bias,
        out,
        seq,
        *x.stride()[:2],
        shift.stride(0),
        scale.stride(0),
        C=width,
        N=outs,
        BLOCK_M=config.rows,
        BLOCK_N=max(MIN_DOT, next_power_of_2(outs)),
        BLOCK_K=BLOCK_K,
        num_warps=config.num_warps,
        on=x,
    )


def head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty((*x.shape[:2], len(weight)), dtype=x.dtype, device=x.device)
    head_into(x, shift, scale, weight, bias, out)
    return out
