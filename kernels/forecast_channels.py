"""A weighted sum of tensors with weights for each channel, one pass (HyCa, arXiv 2510.04188).

The coefficients are on the device, so that a captured step serves every distance.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .forecast import check_terms
from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import load_part, load_vector_part, rows_of_turn, store_part

OP = "forecast_channels"


@triton.jit
def _forecast_channels_kernel(
    out_ptr,
    factors_ptr,
    coefficients_ptr,
    stride_ob,
    stride_os,
    stride_term,
    stride_fs,
    stride_coefficients,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TERMS: tl.constexpr,
):
    """A batch of one: rows of all samples one after another."""
    rows, mask = rows_of_turn(0, S, BLOCK_M, 1)
    for part in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for term in tl.static_range(TERMS):
            ptrs = factors_ptr + tl.full((), term, tl.int64) * stride_term + rows * stride_fs
            coefficient_ptr = coefficients_ptr + term * stride_coefficients
            coefficient = load_vector_part(coefficient_ptr, part, C, BLOCK_C)
            total += coefficient * load_part(ptrs, part, mask, C, BLOCK_C)
        store_part(out_ptr + rows * stride_os, part, mask, C, BLOCK_C, total)


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
    rows = out.reshape(1, -1, out.shape[-1]), factors.reshape(len(factors), -1, out.shape[-1])
    launch_rows(OP, _forecast_channels_kernel, *rows, coefficients, TERMS=len(factors))


@recomputed()
def forecast_channels(factors: Tensor, coefficients: Tensor) -> Tensor:
    out = torch.empty_like(factors[0])
    forecast_channels_into(factors, coefficients, out)
    return out
