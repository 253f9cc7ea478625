"""RMSNorm over each head, then RoPE on image rows, in place: 2 activations moved.

Works on any strided view `[B, S, H, D]`: the q or k of packed QKV, or a tensor of its own. The
kernel is also that of `rms_norm_rope_pair` and `rms_norm_rope_send`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import (
    cdiv,
    check_rows,
    check_shape,
    launch,
    next_power_of_2,
    part_of_row,
    rows_config,
    turns_of,
)
from .registration import register_op
from .row_tile import NORM_EPS, rows_of_turn

OP = "rms_norm_rope"


@triton.jit
def load_pairs(ptr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The even and the odd ones of the D values at `ptr`, each `[1, 1, BLOCK_D / 2]` fp32."""
    cols = tl.arange(0, BLOCK_D)
    values = tl.load(ptr + cols, mask=cols < D, other=0.0).to(tl.float32)
    return tl.split(tl.reshape(values, (1, 1, BLOCK_D // 2, 2)))


@triton.jit
def normed_pairs(x, D: tl.constexpr):
    """The even and the odd values of heads `x [BLOCK_M, BLOCK_H, BLOCK_D]` over their RMS; fp32."""
    x = x.to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=2) / D + NORM_EPS)[:, :, None]
    return tl.split(tl.reshape(normed, (x.shape[0], x.shape[1], x.shape[2] // 2, 2)))


@triton.jit
def weighted_angles(weights, cos, sin):
    """What rotates pairs that are yet to be weighted: (cos, sin) for even results, then for odd.

    `weights` are those of even and of odd values. Made once for all heads of a row.
    """
    return weights[0] * cos, weights[1] * sin, weights[1] * cos, weights[0] * sin


@triton.jit
def rotated(even, odd, angles):
    """Pairs turned by `angles`, again one beside the other: `[BLOCK_M, BLOCK_H, BLOCK_D]`."""
    pairs = tl.join(even * angles[0] - odd * angles[1], odd * angles[2] + even * angles[3])
    return tl.reshape(pairs, (even.shape[0], even.shape[1], 2 * even.shape[2]))


@triton.jit
def _rms_norm_rope_kernel(
    x_ptrs,
    img_weight_ptrs,
    txt_weight_ptrs,
    cos_ptr,
    sin_ptr,
    starts_ptr,
    out_ptr,
    strides_xb,
    strides_xs,
    strides_xh,
    S,
    S_IMG,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TURNS: tl.constexpr,
):
    """One or two tensors in place, or, with `starts`, one into the layout that is sent."""
    TENSORS: tl.constexpr = len(x_ptrs)
    PARTS: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_D)[None, None, :]
    half = tl.arange(0, BLOCK_D // 2)[None, None, :]
    heads = tl.arange(0, BLOCK_H)[None, :, None]
    img_weights, txt_weights = (), ()
    for i in tl.static_range(TENSORS):
        img_weights = img_weights + (load_pairs(img_weight_ptrs[i], D, BLOCK_D),)
        txt_weights = txt_weights + (load_pairs(txt_weight_ptrs[i], D, BLOCK_D),)
    places, counts = (), ()
    if starts_ptr is not None:
        for part in tl.static_range(PARTS):
            # The first head of the rank that gets this one, and how many that rank gets.
            head = part * BLOCK_H + heads
            first = tl.load(starts_ptr + head, mask=head < H, other=0)
            count = tl.load(starts_ptr + H + head, mask=head < H, other=0)
            places = places + (S * (batch * H + first) + head - first,)
            counts = counts + (count,)
    for turn in range(TURNS):
        rows, in_rows = rows_of_turn(turn, S, BLOCK_M, TURNS)
        rows, in_rows = rows[:, :, None], in_rows[:, :, None]
        is_img = rows < S_IMG
        angle_offs, is_angle = rows * (D // 2) + half, is_img & (half < D // 2)
        cos = tl.load(cos_ptr + angle_offs, mask=is_angle, other=1.0)
        sin = tl.load(sin_ptr + angle_offs, mask=is_angle, other=0.0)
        values = ()
        for i in tl.static_range(TENSORS):
            row_ptrs = x_ptrs[i] + batch * strides_xb[i] + rows * strides_xs[i] + cols
            for part in tl.static_range(PARTS):
                head = part * BLOCK_H + heads
                mask = in_rows & (head < H) & (cols < D)
                ptrs = row_ptrs + head.to(tl.int64) * strides_xh[i]
                values = values + (tl.load(ptrs, mask=mask, other=0.0),)
        for i in tl.static_range(TENSORS):
            even_weight = tl.where(is_img, img_weights[i][0], txt_weights[i][0])
            odd_weight = tl.where(is_img, img_weights[i][1], txt_weights[i][1])
            angles = weighted_angles((even_weight, odd_weight), cos, sin)
            row_ptrs = x_ptrs[i] + batch * strides_xb[i] + rows * strides_xs[i] + cols
            for part in tl.static_range(PARTS):
                even, odd = normed_pairs(values[i * PARTS + part], D)
                out = rotated(even, odd, angles)
                head = part * BLOCK_H + heads
                mask = in_rows & (head < H) & (cols < D)
                ptrs = row_ptrs + head.to(tl.int64) * strides_xh[i]
                if starts_ptr is not None:
                    ptrs = out_ptr + (places[part] + rows * counts[part]) * D + cols
                tl.store(ptrs, out.to(x_ptrs[i].dtype.element_ty), mask=mask)


@register_op(mutates=["x"])
def rms_norm_rope_(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> None:
    check_rope(OP, x, img_weight, txt_weight, freqs_cos, freqs_sin)
    launch_rope(OP, [x], [img_weight], [txt_weight], freqs_cos, freqs_sin)


def launch_rope(
    op: str,
    xs: Sequence[Tensor],
    img_weights: Sequence[Tensor],
    txt_weights: Sequence[Tensor],
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    starts: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    """Run the kernel on tensors of one shape, in place, or, with `starts` and `out`, on one.

    The result then goes into `out`, in the layout that is sent.
    """
    batch, seq, heads, width = xs[0].shape
    if xs[0].numel() == 0:
        return
    config = rows_config(op, heads * width, xs[0].device)
    turns, padded = turns_of(config, seq, batch), next_power_of_2(width)
    launch(
        _rms_norm_rope_kernel,
        (cdiv(seq, config.rows * turns), batch),
        tuple(xs),
        tuple(img_weights),
        tuple(txt_weights),
        freqs_cos,
        freqs_sin,
        starts,
        out,
        *zip(*(x.stride()[:3] for x in xs), strict=True),
        seq,
        len(freqs_cos),
        H=heads,
        D=width,
        BLOCK_M=config.rows,
        BLOCK_H=part_of_row(heads, padded),
        BLOCK_D=padded,
        TURNS=turns,
        num_warps=config.num_warps,
        on=xs[0],
    )


def check_rope(
    op: str,
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
) -> None:
    """Raise ValueError unless the tables and weights fit `x [B, S, H, D]`."""
    width = x.shape[3]
    if width % 2:
        raise ValueError(f"{op}: the head width must be even, got {width}")
    tables = {"freqs_cos": freqs_cos, "freqs_sin": freqs_sin}
    check_rows(op, x=x, img_weight=img_weight, txt_weight=txt_weight, **tables)
    check_shape(op, "img_weight", img_weight, (width,))
    check_shape(op, "txt_weight", txt_weight, (width,))
    if len(freqs_cos) > x.shape[1]:
        raise ValueError(f"{op}: {len(freqs_cos)} rows of tables for {x.shape[1]} tokens")
    for name, table in tables.items():
        check_shape(op, name, table, (len(freqs_cos), width // 2))
        if not table.is_contiguous() or table.dtype != torch.float32:
            raise ValueError(f"{op}: {name} must be contiguous fp32, got {table.dtype}")


@recomputed(gives_up=1)
def rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> Tensor:
    rms_norm_rope_(x, img_weight, txt_weight, freqs_cos, freqs_sin)
    return x
