"""A weighted sum of divided differences, one pass: Taylor's or Hermite's forecast of a tensor."""

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
    factors_ptr, out_ptr, COUNT, stride, c0, c1, c2, c3, TERMS: tl.constexpr, BLOCK: tl.constexpr
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < COUNT
    step = tl.full((), 1, tl.int64) * stride
    total = c0 * tl.load(factors_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if TERMS > 1:
        total += c1 * tl.load(factors_ptr + step + offs, mask=mask, other=0.0).to(tl.float32)
    if TERMS > 2:
        total += c2 * tl.load(factors_ptr + 2 * step + offs, mask=mask, other=0.0).to(tl.float32)
    if TERMS > 3:
        total += c3 * tl.load(factors_ptr + 3 * step + offs, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def forecast_into(factors: Tensor, coefficients: list[float], out: Tensor) -> None:
    check_rows(OP, factors=factors, out=out)
    check_shape(OP, "out", out, factors.shape[1:])
    if not (factors.is_contiguous() and out.is_contiguous()):
        raise ValueError(f"{OP}: factors and out must be contiguous")
    if not 1 <= len(coefficients) <= min(MAX_TERMS, len(factors)):
        raise ValueError(
            f"{OP}: coefficients must be from 1 to {min(MAX_TERMS, len(factors))}, "
            f"got {len(coefficients)}"
        )
    if out.numel() == 0:
        return
    config = launch_config(OP, SPAN, out.device, DEFAULT)
    block = config.rows * SPAN
    launch(
        _forecast_kernel,
        (cdiv(out.numel(), block),),
        factors,
        out,
        out.numel(),
        factors.stride(0),
        *coefficients,
        *[0.0] * (MAX_TERMS - len(coefficients)),
        TERMS=len(coefficients),
        BLOCK=block,
        num_warps=config.num_warps,
        on=out,
    )


@recomputed()
def forecast(factors: Tensor, coefficients: list[float]) -> Tensor:
    out = torch.empty_like(factors[0])
    forecast_into(factors, list(coefficients), out)
    return out
