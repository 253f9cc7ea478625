"""x + Σ gate·branch over several branches, one pass: K + 2 activations moved for K of them.

Where whole blocks are replaced by what a cache kept, the tokens are read and written once for
several blocks. A program keeps its sum in fp32; more than MAX_BRANCHES are added in turns.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape, launch_rows
from .registration import register_op
from .row_tile import load_part, load_vector_part, rows_of_turn, store_part

OP = "gated_sum"
MAX_BRANCHES = 8  # of a launch: a ninth would save a ninth of the reading and writing of x


@triton.jit
def _gated_sum_kernel(
    x_ptr,
    branch_ptrs,
    gate_ptrs,
    out_ptr,
    stride_xb,
    stride_xs,
    branch_strides_b,
    branch_strides_s,
    gate_strides,
    stride_ob,
    stride_os,
    S,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # Part by part, without turns: the gates of eight branches fit in no registers.
    batch = tl.program_id(1).to(tl.int64)
    rows, mask = rows_of_turn(0, S, BLOCK_M, 1)
    x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs
    out_ptrs = out_ptr + batch * stride_ob + rows * stride_os
    for part in tl.static_range((C + BLOCK_C - 1) // BLOCK_C):
        total = load_part(x_ptrs, part, mask, C, BLOCK_C)
        for i in tl.static_range(len(branch_ptrs)):
            ptrs = branch_ptrs[i] + batch * branch_strides_b[i] + rows * branch_strides_s[i]
            gate = load_vector_part(gate_ptrs[i] + batch * gate_strides[i], part, C, BLOCK_C)
            total += gate * load_part(ptrs, part, mask, C, BLOCK_C)
        store_part(out_ptrs, part, mask, C, BLOCK_C, total)


@register_op(mutates=["out"])
def gated_sum_into(
    x: Tensor, branches: Sequence[Tensor], gates: Sequence[Tensor], out: Tensor
) -> None:
    batch, _, width = x.shape
    check_shape(OP, "out", out, x.shape)
    for branch, gate in zip(branches, gates, strict=True):
        check_rows(OP, x=x, branch=branch, gate=gate, out=out)
        check_shape(OP, "branch", branch, x.shape)
        check_shape(OP, "gate", gate, (batch, width))
    launch_rows(OP, _gated_sum_kernel, x, tuple(branches), tuple(gates), out)


@recomputed()
def gated_sum(x: Tensor, *branches_and_gates: Tensor, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
    branches, gates = branches_and_gates[::2], branches_and_gates[1::2]
    for start in range(0, len(branches), MAX_BRANCHES):
        stop = start + MAX_BRANCHES
        gated_sum_into(x if start == 0 else out, branches[start:stop], gates[start:stop], out)
    return out
