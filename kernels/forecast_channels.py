"""A weighted sum of tensors with weights for each channel, one pass (HyCa, arXiv 2510.04188).

The coefficients are on the device, so that a captured step serves every distance.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .forecast import DEFAULT as DEFAULT
from .forecast import check_terms
from .gradients import recomputed
from .launch import SPAN, cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "forecast_channels"


@triton.jit
def _forecast_channels_kernel(
    factors_ptr,
    coefficients_ptr,
    out_ptr,
    COUNT,
    stride,
    CHANNELS,
    TERMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < COUNT
    channel = (offs % CHANNELS).to(tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for term in tl.static_range(TERMS):
        ptrs = factors_ptr + tl.full((), term, tl.int64) * stride + offs
        factor = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
        total += tl.load(coefficients_ptr + term * CHANNELS + channel, mask=mask) * factor
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def forecast_channels_into(factors: Tensor, coefficients: Tensor, out: Tensor) -> None:
    check_rows(OP, factors=factors, out=out)
    check_shape(OP, "out", out, factors.shape[1:])
    check_terms(OP, factors)
    check_shape(OP, "coefficients", coefficients, (len(factors), factors.shape[-1]))
    if coefficients.dtype != torch.float32:
        raise ValueError(f"{OP}: coefficients must be fp32, got {coefficients.dtype}")
    if not all(each.is_contiguous() for each in (factors, coefficients, out)):
        raise ValueError(f"{OP}: factors, coefficients and out must be contiguous")
    if out.numel() == 0:
        return
    config = launch_config(OP, SPAN, out.device, DEFAULT)
    block = config.rows * SPAN
    launch(
        _forecast_channels_kernel,
        (cdiv(out.numel(), block),),
        factors,
        coefficients,
        out,
        out.numel(),
        factors.stride(0),
        out.shape[-1],
        TERMS=len(factors),
        BLOCK=block,
        num_warps=config.num_warps,
        on=out,
    )


@recomputed()
def forecast_channels(factors: Tensor, coefficients: Tensor) -> Tensor:
    out = torch.empty_like(factors[0])
    forecast_channels_into(factors, coefficients, out)
    return out
