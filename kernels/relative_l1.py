"""Σ|x − reference| / Σ|reference| in one pass: two tensors to a scalar, no temporaries.

Every program sums a share, a last one sums the sums in their order: the same on every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import (
    SPAN,
    LaunchConfig,
    cdiv,
    check_rows,
    check_shape,
    launch,
    launch_config,
    next_power_of_2,
)
from .registration import register_op

OP = "relative_l1"
DEFAULT = LaunchConfig(rows=4, num_warps=8)
MAX_PROGRAMS = 1024


@triton.jit
def _partial_sums_kernel(x_ptr, reference_ptr, sums_ptr, COUNT, SHARE, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SHARE
    changed = tl.zeros((BLOCK,), tl.float32)
    size = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, SHARE, BLOCK):
        within = start + tl.arange(0, BLOCK)
        offs = first + within
        mask = (within < SHARE) & (offs < COUNT)
        x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        reference = tl.load(reference_ptr + offs, mask=mask, other=0.0).to(tl.float32)
        changed += tl.abs(x - reference)
        size += tl.abs(reference)
    tl.store(sums_ptr + 2 * tl.program_id(0), tl.sum(changed, axis=0))
    tl.store(sums_ptr + 2 * tl.program_id(0) + 1, tl.sum(size, axis=0))


@triton.jit
def _ratio_kernel(sums_ptr, out_ptr, PROGRAMS, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    mask = index < PROGRAMS
    changed = tl.load(sums_ptr + 2 * index, mask=mask, other=0.0)
    size = tl.load(sums_ptr + 2 * index + 1, mask=mask, other=0.0)
    tl.store(out_ptr, tl.sum(changed, axis=0) / tl.sum(size, axis=0))


@register_op(mutates=["out"])
def relative_l1_into(x: Tensor, reference: Tensor, out: Tensor) -> None:
    check_rows(OP, x=x, reference=reference)
    check_shape(OP, "reference", reference, x.shape)
    check_shape(OP, "out", out, ())
    if not (x.is_contiguous() and reference.is_contiguous()):
        raise ValueError(f"{OP}: x and reference must be contiguous")
    if x.numel() == 0:
        raise ValueError(f"{OP}: x must not be empty")
    count = x.numel()
    config = launch_config(OP, SPAN, x.device, DEFAULT)
    block = config.rows * SPAN
    programs = min(MAX_PROGRAMS, cdiv(count, block))
    share = cdiv(cdiv(count, programs), block) * block
    programs = cdiv(count, share)
    sums = torch.empty(2 * programs, dtype=torch.float32, device=x.device)
    launch(
        _partial_sums_kernel,
        (programs,),
        x,
        reference,
        sums,
        count,
        share,
        BLOCK=block,
        num_warps=config.num_warps,
        on=x,
    )
    last = next_power_of_2(programs)
    launch(_ratio_kernel, (1,), sums, out, programs, BLOCK=last, num_warps=4, on=x)


@recomputed()
def relative_l1(x: Tensor, reference: Tensor) -> Tensor:
    out = torch.empty((), dtype=torch.float32, device=x.device)
    relative_l1_into(x, reference, out)
    return out
