"""Rows of one tensor, or of two side by side, quantized, GELU of the last on the way; one pass.

A row stays in registers from its read to its scale: of the widest, 5·3,072 values, 60 a thread.
"""

import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import quantized_row, row_largest, scale_of
from .gelu_tanh import gelu
from .launch import check_rows, check_shape, launch_rows, part_of_row
from .quantized import Quantized, check_quantized, quantized_buffer
from .registration import register_op
from .row_tile import load_rows, rows_of_turn, store_rows

OP = "quantize_joint"


@triton.jit
def _activated(row):
    """GELU, tanh approximation, part by part."""
    out = ()
    for part in tl.static_range(len(row)):
        out = out + (gelu(row[part]),)
    return out


@triton.jit
def _quantize_joint_kernel(
    last_ptr,
    first_ptr,
    out_ptr,
    scale_ptr,
    stride_lb,
    stride_ls,
    stride_fb,
    stride_fs,
    stride_ob,
    stride_os,
    stride_cb,
    stride_cs,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_FIRST: tl.constexpr,
    GELU: tl.constexpr,
):
    """Rows of FIRST columns, or none, then rows of C columns."""
    batch = tl.program_id(1).to(tl.int64)
    rows, mask = rows_of_turn(0, S, BLOCK_M, 1)
    last = load_rows(last_ptr + batch * stride_lb + rows * stride_ls, mask, C, BLOCK_C)
    first_ptrs = first_ptr + batch * stride_fb + rows * stride_fs
    if FIRST > 0:
        first = load_rows(first_ptrs, mask, FIRST, BLOCK_FIRST)
    if GELU:
        last = _activated(last)
    largest = row_largest(last)
    if FIRST > 0:
        largest = tl.maximum(largest, row_largest(first))
    scale = scale_of(largest)
    tl.store(scale_ptr + batch * stride_cb + rows * stride_cs, scale, mask=mask)
    out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
    if FIRST > 0:
        store_rows(out_ptrs, mask, FIRST, BLOCK_FIRST, quantized_row(first, scale))
    store_rows(out_ptrs + FIRST, mask, C, BLOCK_C, quantized_row(last, scale))


@register_op(mutates=["values", "scale"])
def quantize_joint_into(
    last: Tensor, first: Tensor | None, values: Tensor, scale: Tensor, gelu: bool
) -> None:
    before = 0 if first is None else first.shape[2]
    check_rows(OP, last=last, **({} if first is None else {"first": first}))
    if first is not None:
        check_shape(OP, "first", first, (*last.shape[:2], before))
    shape = (*last.shape[:2], before + last.shape[2])
    out = Quantized.of_bytes(values, scale)
    check_quantized(OP, out, shape)
    launch_rows(
        OP,
        _quantize_joint_kernel,
        last,
        last if first is None else first,
        *out,
        FIRST=before,
        BLOCK_FIRST=part_of_row(max(1, before)),
        GELU=gelu,
    )


def quantize_joint(*parts: Tensor, gelu: bool = False) -> Quantized:
    *before, last = parts
    first = before[0] if before else None
    width = sum(each.shape[2] for each in parts)
    out = quantized_buffer(last, (*last.shape[:2], width))
    quantize_joint_into(last, first, *out.as_bytes(), gelu)
    return out
