"""A weighted sum of divided differences, one pass: Taylor's or Hermite's forecast of a tensor.

The coefficients are on the device, so that a captured step serves every distance.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import SPAN, LaunchConfig, cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "forecast"
DEFAULT = LaunchConfig(rows=2, num_warps=8)
MAX_TERMS = 4  # orders 0 to 3


@triton.jit
def _forecast_kernel(
    factors_ptr, coefficients_ptr, out_ptr, COUNT, stride, TERMS: tl.constexpr, BLOCK: tl.constexpr
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < COUNT
    total = tl.zeros((BLOCK,), tl.float32)
    for term in tl.static_range(TERMS):
        ptrs = factors_ptr + tl.full((), term, tl.int64) * stride + offs
        factor = tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)
        total += tl.load(coefficients_ptr + term) * factor
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def forecast_into(factors: Tensor, coefficients: Tensor, out: Tensor) -> None:
    check_rows(OP, factors=factors, out=out)
    check_shape(OP, "out", out, factors.shape[1:])
    check_terms(OP, factors)
    check_numbers(OP, "coefficients", coefficients, len(factors))
    if not (factors.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"{OP}: factors and out must be contiguous")
    launch_terms(OP, _forecast_kernel, factors, coefficients, out, value=out)


def check_numbers(op: str, name: str, numbers: Tensor, count: int) -> None:
    """Raise ValueError unless `numbers` are `count` fp32 values that lie together."""
    check_shape(op, name, numbers, (count,))
    if numbers.dtype != torch.float32 or not numbers.is_contiguous():
        raise ValueError(f"{op}: {name} must be contiguous fp32, got {numbers.dtype}")


def check_terms(op: str, factors: Tensor) -> None:
    """Raise ValueError unless there are from 1 to MAX_TERMS factors."""
    if not 1 <= len(factors) <= MAX_TERMS:
        raise ValueError(f"{op}: factors must be from 1 to {MAX_TERMS}, got {len(factors)}")


def launch_terms(op: str, kernel: Any, factors: Tensor, *others: Tensor, value: Tensor) -> None:
    """Run a kernel over all places of `value`, and of each of `factors`, if there are any."""
    if value.numel() == 0:
        return
    config = launch_config(op, SPAN, value.device, DEFAULT)
    block = config.rows * SPAN
    launch(
        kernel,
        (cdiv(value.numel(), block),),
        factors,
        *others,
        value.numel(),
        factors.stride(0),
        TERMS=len(factors),
        BLOCK=block,
        num_warps=config.num_warps,
        on=value,
    )


@recomputed()
def forecast(factors: Tensor, coefficients: Tensor) -> Tensor:
    out = torch.empty_like(factors[0])
    forecast_into(factors, coefficients, out)
    return out
