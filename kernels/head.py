"""The final layer, modulated LayerNorm and a narrow linear, in one pass over the tokens.

Unpatchify and the Euler step are not in it: under classifier-free guidance they need the patches of
two passes, and those are 2 % of what is read here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import (
    LaunchConfig,
    cdiv,
    check_rows,
    check_shape,
    launch,
    launch_config,
    next_power_of_2,
)
from .op_table import HEAD_COLUMNS, MIN_DOT
from .registration import register_op
from .row_tile import NORM_EPS

OP = "head"
DEFAULT = LaunchConfig(rows=64, num_warps=8)


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
    row_ptrs = x_ptr + batch * stride_xb + rows.to(tl.int64)[:, None] * stride_xs
    outs = tl.arange(0, BLOCK_N)
    in_outs = outs < N
    # x is read once: with W' = (1 + scale)·W the result is rstd·(x·W' − mean·ΣW') + shift·W + bias.
    # A mean of 10 std would cancel there to 8 times the reference's error in fp32, so x is taken
    # less a pivot, its row's mean over the first block.
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    weight_sum = tl.zeros((BLOCK_N,), tl.float32)
    constant = tl.load(bias_ptr + outs, mask=in_outs, other=0.0).to(tl.float32)
    pivot = tl.zeros((BLOCK_M,), x_ptr.dtype.element_ty)
    # The mean of x − pivot, and Σ(x − mean)², merged block by block (Chan 1979).
    mean, spread = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, C, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        valid = cols < C
        mask = (rows < S)[:, None] & valid[None, :]
        x = tl.load(row_ptrs + cols[None, :], mask=mask, other=0.0)
        count = tl.minimum(C - start, BLOCK_K)
        block_mean = tl.sum(x.to(tl.float32), axis=1) / count
        pivot = tl.where(start == 0, block_mean.to(x.dtype), pivot)
        x = x - pivot[:, None]  # in the tokens' dtype, as the product takes them
        block_mean = block_mean - pivot.to(tl.float32)
        centred = tl.where(valid[None, :], x.to(tl.float32) - block_mean[:, None], 0.0)
        step, share = block_mean - mean, count / (start + count)
        spread += tl.sum(centred * centred, axis=1) + step * step * (start * share)
        mean += step * share
        shift = tl.load(shift_ptr + batch * stride_shift + cols, mask=valid, other=0.0)
        scale = tl.load(scale_ptr + batch * stride_scale + cols, mask=valid, other=0.0)
        weight_ptrs = weight_ptr + outs[None, :] * C + cols[:, None]
        weight = tl.load(weight_ptrs, mask=valid[:, None] & in_outs[None, :], other=0.0)
        weight = weight.to(tl.float32)
        constant += tl.sum(shift.to(tl.float32)[:, None] * weight, axis=0)
        scaled = (weight * (1.0 + scale.to(tl.float32))[:, None]).to(x.dtype)
        weight_sum += tl.sum(scaled.to(tl.float32), axis=0)
        product = tl.dot(x, scaled, product, input_precision="ieee")
    rstd = 1.0 / tl.sqrt(spread / C + NORM_EPS)
    out = (product - mean[:, None] * weight_sum[None, :]) * rstd[:, None] + constant[None, :]
    out_ptrs = out_ptr + (batch * S + rows.to(tl.int64))[:, None] * N + outs[None, :]
    out_mask = (rows < S)[:, None] & in_outs[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=out_mask)


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
    check_shape(OP, "bias", bias, (outs,))
    check_shape(OP, "out", out, (batch, seq, outs))
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
        BLOCK_K=HEAD_COLUMNS if x.element_size() == 2 else HEAD_COLUMNS // 4,
        num_warps=config.num_warps,
        on=x,
    )


@recomputed()
def head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty((*x.shape[:2], len(weight)), dtype=x.dtype, device=x.device)
    head_into(x, shift, scale, weight, bias, out)
    return out
