"""Affine LayerNorm of rows (the token refiner's), one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import cdiv, check_rows, check_shape, launch, launch_config, next_power_of_2
from .registration import register_op
from .row_norm import row_layer_norm


@triton.jit
def _layer_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    S,
    stride_xb,
    stride_xs,
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
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=cols < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + cols, mask=cols < C, other=0.0).to(tl.float32)
    out = row_layer_norm(x, mask, C) * weight[None, :] + bias[None, :]
    out_ptrs = out_ptr + batch * stride_ob + offs_m * stride_os + cols[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def layer_norm_into(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    batch, seq, width = x.shape
    check_rows("layer_norm", x=x, weight=weight, bias=bias, out=out)
    check_shape("layer_norm", "weight", weight, (width,))
    check_shape("layer_norm", "bias", bias, (width,))
    check_shape("layer_norm", "out", out, x.shape)
    if x.numel() == 0:
        return
    config = launch_config("layer_norm", width, x.device)
    launch(
        _layer_norm_kernel,
        (cdiv(seq, config.rows), batch),
        x,
        weight,
        bias,
        out,
        seq,
        *x.stride()[:2],
        *out.stride()[:2],
        C=width,
        BLOCK_M=config.rows,
        BLOCK_C=next_power_of_2(width),
        num_warps=config.num_warps,
        on=x,
    )


@recomputed("(Tensor x, Tensor weight, Tensor bias) -> Tensor")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    layer_norm_into(x, weight, bias, out)
    return out
