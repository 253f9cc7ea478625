"""Attention of blocks of queries to their own blocks of keys, one pass; the arithmetic limits it.

Rows are gathered where they lie, so that no tokens are brought into another order. Scores are kept
in base 2, sums and outputs in fp32 (online softmax, arXiv 2205.14135). Forward only.
"""

from math import gcd
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .key_blocks import Corners, KeyBlocks
from .launch import check_rows, check_shape, launch, launch_variant, next_power_of_2
from .op_table import MIN_DOT
from .registration import register_op

OP = "block_sparse_attention"
LOG2_E = 1.4426950408889634
LEAST = tl.constexpr(-1.0e38)  # below every score: with -inf a row without a key would give NaN


class Tile(NamedTuple):
    """Queries and keys that a program has at a time, its warps and its loads under way."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


VARIANTS = {
    "128x64": Tile(128, 64, 8, 3),
    "128x128": Tile(128, 128, 8, 3),
    "128x64, 4 warps": Tile(128, 64, 4, 3),
    "64x64": Tile(64, 64, 4, 4),
    "64x128": Tile(64, 128, 4, 3),
}
DEFAULT = "128x64"
IN_FP32 = Tile(32, 32, 8, 1)  # products in fp32 by multiply-add: with more a thread spills


@triton.jit(do_not_specialize=["H", "G", "N", "L"])
def _block_sparse_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    queries_ptr,
    keys_ptr,
    blocks_ptr,
    counts_ptr,
    zeros_ptr,
    query_corners_ptr,
    key_corners_ptr,
    lengths_ptr,
    heads_ptr,
    scale,
    H,
    G,
    N,
    L,
    stride_qb,
    stride_qs,
    stride_qh,
    stride_kb,
    stride_ks,
    stride_kh,
    stride_vb,
    stride_vs,
    stride_vh,
    stride_ob,
    stride_os,
    stride_oh,
    stride_keys_b,
    stride_keys_h,
    stride_blocks_b,
    stride_blocks_h,
    stride_counts_b,
    stride_counts_h,
    M: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    GUARDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    if heads_ptr is not None:  # noqa: SIM102 a pointer that is None cannot be loaded from
        if tl.load(heads_ptr + batch * H + head) == 0:
            return
    places = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    group = tl.program_id(0) // (M // BLOCK_M)
    cols = tl.arange(0, BLOCK_D)
    rows = tl.load(queries_ptr + places)
    q_mask = (rows >= 0)[:, None] & (cols < D)[None, :]
    q_ptrs = q_ptr + batch * stride_qb + head * stride_qh
    q_ptrs += rows.to(tl.int64)[:, None] * stride_qs + cols[None, :]
    q = tl.load(q_ptrs, mask=q_mask, other=0.0)
    counts_at = batch * stride_counts_b + head * stride_counts_h + group
    count = tl.load(counts_ptr + counts_at)
    keys_ptr += batch * stride_keys_b + head * stride_keys_h
    blocks_ptr += batch * stride_blocks_b + head * stride_blocks_h + group.to(tl.int64) * L
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    length = 2147483647
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + batch).to(tl.int32)
    if GUARDS:
        lowest = tl.load(query_corners_ptr + places)
        highest = tl.load(query_corners_ptr + G * M + places)
    peak = tl.full((BLOCK_M,), LEAST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    if zeros_ptr is not None:
        zeros = tl.load(zeros_ptr + counts_at)
        peak = tl.where(zeros > 0, 0.0, peak)  # the score of a key of zeros
        total += zeros.to(tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for part in range(0, count * (K // BLOCK_N)):
        block = tl.load(blocks_ptr + part // (K // BLOCK_N))
        at = block * K + part % (K // BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
        key_rows = tl.load(keys_ptr + at)
        is_key = (key_rows >= 0) & (key_rows < length)
        key_rows = key_rows.to(tl.int64)
        k_ptrs = k_ptr + key_rows[None, :] * stride_ks + cols[:, None]
        k = tl.load(k_ptrs, mask=is_key[None, :] & (cols < D)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        attends = is_key[None, :]
        if GUARDS:
            key_low = tl.load(key_corners_ptr + at)
            key_high = tl.load(key_corners_ptr + N * K + at)
            inside = (highest[:, None] - key_low[None, :]) & (key_high[None, :] - lowest[:, None])
            attends = attends & ((inside & GUARDS) == GUARDS)
        scores = tl.where(attends, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_peak[:, None])
        kept = tl.exp2(peak - new_peak)
        total = total * kept + tl.sum(weights, axis=1)
        v_ptrs = v_ptr + key_rows[:, None] * stride_vs + cols[None, :]
        v = tl.load(v_ptrs, mask=is_key[:, None] & (cols < D)[None, :], other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * kept[:, None], input_precision="ieee")
        peak = new_peak
    out = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    out_ptrs = out_ptr + batch * stride_ob + head * stride_oh
    out_ptrs += rows.to(tl.int64)[:, None] * stride_os + cols[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=q_mask)


@register_op(mutates=["out"])
def block_sparse_attention_into(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor,
    keys: Tensor,
    blocks: Tensor,
    counts: Tensor,
    zeros: Tensor | None,
    query_corners: Tensor | None,
    key_corners: Tensor | None,
    guards: int,
    lengths: Tensor | None,
    heads: Tensor | None,
    out: Tensor,
) -> None:
    batch, _, count, width = q.shape
    groups, key_count = queries.shape, keys.shape[2:]
    check_rows(OP, q=q, k=k, v=v, out=out)
    check_shape(OP, "v", v, k.shape)
    check_shape(OP, "out", out, q.shape)
    if zeros is not None:
        check_shape(OP, "zeros", zeros, counts.shape)
    if heads is not None:
        check_shape(OP, "heads", heads, q.shape[:3:2])
    if groups[1] % MIN_DOT or key_count[1] % MIN_DOT:
        raise ValueError(
            f"{OP}: blocks must be of a multiple of {MIN_DOT} queries and keys, got "
            f"{groups[1]} and {key_count[1]}"
        )
    if out.numel() == 0 or queries.numel() == 0:
        return
    queries, keys, blocks, counts = (each.contiguous() for each in (queries, keys, blocks, counts))
    tile = _tile(q, groups[1], key_count[1])
    launch(
        _block_sparse_attention_kernel,
        (queries.numel() // tile.queries, count, batch),
        q,
        k,
        v,
        out,
        queries,
        keys,
        blocks,
        counts,
        None if zeros is None else zeros.contiguous(),
        query_corners,
        key_corners,
        lengths,
        None if heads is None else heads.contiguous(),
        width**-0.5 * LOG2_E,
        count,
        groups[0],
        key_count[0],
        blocks.shape[3],
        *(stride for each in (q, k, v, out) for stride in each.stride()[:3]),
        *(stride for each in (keys, blocks, counts) for stride in _over_samples_and_heads(each)),
        M=groups[1],
        K=key_count[1],
        D=width,
        GUARDS=guards,
        BLOCK_M=tile.queries,
        BLOCK_N=tile.keys,
        BLOCK_D=max(MIN_DOT, next_power_of_2(width)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        on=q,
    )


def _tile(q: Tensor, queries: int, keys: int) -> Tile:
    """The largest even parts of blocks of `queries` and `keys` that are within the launch's."""
    name = launch_variant(OP, q.shape[3], q.device, DEFAULT)
    wanted = IN_FP32 if q.dtype == torch.float32 else VARIANTS[name]
    rows, columns = gcd(queries, wanted.queries), gcd(keys, wanted.keys)
    warps = max(1, wanted.num_warps * rows // wanted.queries)
    return wanted._replace(queries=rows, keys=columns, num_warps=warps)


def _over_samples_and_heads(each: Tensor) -> tuple[int, int]:
    """The strides of the first two axes, zero where all samples or heads are alike."""
    return tuple(0 if each.shape[axis] == 1 else each.stride(axis) for axis in (0, 1))


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: KeyBlocks,
    lengths: Tensor | None = None,
    heads: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    out = torch.empty_like(q) if out is None else out
    corners = plan.corners or Corners(None, None, 0)
    block_sparse_attention_into(q, k, v, *plan[:5], *corners, lengths, heads, out)
    return out
