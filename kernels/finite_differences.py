"""Divided differences of a tensor over steps, updated in place in one pass (TaylorSeer's cache).

The distance, and how many orders are known, are on the device, so that a captured step serves all.
"""

import triton
import triton.language as tl
from torch import Tensor

from .forecast import DEFAULT as DEFAULT
from .forecast import check_numbers, check_terms, launch_terms
from .launch import check_rows, check_shape
from .registration import register_op

OP = "finite_differences"


@triton.jit
def _finite_differences_kernel(
    factors_ptr, newest_ptr, numbers_ptr, COUNT, stride, TERMS: tl.constexpr, BLOCK: tl.constexpr
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < COUNT
    distance, known = tl.load(numbers_ptr), tl.load(numbers_ptr + 1)
    newer = tl.load(newest_ptr + offs, mask=mask, other=0.0)
    for order in tl.static_range(TERMS):
        ptrs = factors_ptr + offs + tl.full((), order, tl.int64) * stride
        older = tl.load(ptrs, mask=mask, other=0.0)
        tl.store(ptrs, newer, mask=mask)
        difference = (newer.to(tl.float32) - older.to(tl.float32)) / distance
        newer = tl.where(known > order + 1, difference, 0.0).to(newest_ptr.dtype.element_ty)


@register_op(mutates=["factors"])
def finite_differences(factors: Tensor, newest: Tensor, numbers: Tensor) -> None:
    check_rows(OP, factors=factors, newest=newest)
    check_shape(OP, "newest", newest, factors.shape[1:])
    check_terms(OP, factors)
    check_numbers(OP, "numbers", numbers, 2)
    if not (factors.is_contiguous() and newest.is_contiguous()) or factors.dtype != newest.dtype:
        raise ValueError(f"{OP}: factors and newest must be contiguous and of one dtype")
    launch_terms(OP, _finite_differences_kernel, factors, newest, numbers, value=newest)
