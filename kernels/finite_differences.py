"""Divided differences of a tensor over steps, updated in place in one pass (TaylorSeer's cache)."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import SPAN, LaunchConfig, cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "finite_differences"
DEFAULT = LaunchConfig(rows=2, num_warps=8)
MAX_KNOWN = 4  # orders 0 to 3


@triton.jit
def _finite_differences_kernel(
    factors_ptr, newest_ptr, COUNT, stride, distance, KNOWN: tl.constexpr, BLOCK: tl.constexpr
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < COUNT
    newer = tl.load(newest_ptr + offs, mask=mask, other=0.0)
    for order in tl.static_range(KNOWN):
        ptrs = factors_ptr + offs + tl.full((), order, tl.int64) * stride
        older = tl.load(ptrs, mask=mask, other=0.0)
        tl.store(ptrs, newer, mask=mask)
        difference = (newer.to(tl.float32) - older.to(tl.float32)) / distance
        newer = difference.to(newest_ptr.dtype.element_ty)


@register_op(mutates=["factors"])
def finite_differences(factors: Tensor, newest: Tensor, distance: float, known: int) -> None:
    check_rows(OP, factors=factors, newest=newest)
    check_shape(OP, "newest", newest, factors.shape[1:])
    if not (factors.is_contiguous() and newest.is_contiguous()) or factors.dtype != newest.dtype:
        raise ValueError(f"{OP}: factors and newest must be contiguous and of one dtype")
    if not 1 <= known <= min(MAX_KNOWN, len(factors)):
        most = min(MAX_KNOWN, len(factors))
        raise ValueError(f"{OP}: known must be from 1 to {most}, got {known}")
    if newest.numel() == 0:
        return
    config = launch_config(OP, SPAN, newest.device, DEFAULT)
    block = config.rows * SPAN
    launch(
        _finite_differences_kernel,
        (cdiv(newest.numel(), block),),
        factors,
        newest,
        newest.numel(),
        factors.stride(0),
        float(distance),
        KNOWN=known,
        BLOCK=block,
        num_warps=config.num_warps,
        on=newest,
    )
