"""RMSNorm over each head, then RoPE on image rows, in place: 2 activations moved for q, 2 for k.

Works on any strided view `[B, S, H, D]`: the q or k of packed QKV, or a tensor of its own. The
kernel is also that of `rms_norm_rope_send`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import (
    LaunchConfig,
    cdiv,
    check_rows,
    check_shape,
    launch,
    launch_config,
    next_power_of_2,
)
from .registration import register_op
from .row_tile import NORM_EPS

OP = "rms_norm_rope"


@triton.jit
def norm_and_rotate(
    x_ptrs,
    mask,
    is_img,
    img_weight_ptr,
    txt_weight_ptr,
    cos_ptr,
    sin_ptr,
    row,
    D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Heads `[BLOCK_H, BLOCK_D]` of a row, normalised, and rotated if it is of the image; fp32."""
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    normed = x * (1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + NORM_EPS))[:, None]
    cols = tl.arange(0, BLOCK_D)
    # One of the two weights is loaded, the other masked to zero; text rows load no angle.
    img_weight = tl.load(img_weight_ptr + cols, mask=cols < tl.where(is_img, D, 0), other=0.0)
    txt_weight = tl.load(txt_weight_ptr + cols, mask=cols < tl.where(is_img, 0, D), other=0.0)
    normed = normed * (img_weight.to(tl.float32) + txt_weight.to(tl.float32))[None, :]
    half = tl.arange(0, BLOCK_D // 2)
    is_rotated = half < tl.where(is_img, D // 2, 0)
    cos = tl.load(cos_ptr + row * (D // 2) + half, mask=is_rotated, other=1.0)
    sin = tl.load(sin_ptr + row * (D // 2) + half, mask=is_rotated, other=0.0)
    even, odd = tl.split(tl.reshape(normed, (BLOCK_H, BLOCK_D // 2, 2)))
    rotated_even = even * cos[None, :] - odd * sin[None, :]
    rotated_odd = odd * cos[None, :] + even * sin[None, :]
    return tl.reshape(tl.join(rotated_even, rotated_odd), (BLOCK_H, BLOCK_D))


@triton.jit
def _rms_norm_rope_kernel(
    x_ptr,
    img_weight_ptr,
    txt_weight_ptr,
    cos_ptr,
    sin_ptr,
    starts_ptr,
    out_ptr,
    S,
    S_IMG,
    stride_xb,
    stride_xs,
    stride_xh,
    H: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """ROWS rows one after another, in place, or, with `starts`, into the layout that is sent."""
    batch = tl.program_id(1).to(tl.int64)
    heads = tl.arange(0, BLOCK_H)
    cols = tl.arange(0, BLOCK_D)
    head_offsets = heads.to(tl.int64)[:, None] * stride_xh + cols[None, :]
    if starts_ptr is not None:
        # For each head: the first head of the rank that gets it, and how many that rank gets.
        first = tl.load(starts_ptr + heads, mask=heads < H, other=0).to(tl.int64)
        count = tl.load(starts_ptr + H + heads, mask=heads < H, other=0).to(tl.int64)
    for index in range(ROWS):
        row = (tl.program_id(0) * ROWS + index).to(tl.int64)
        mask = (heads < tl.where(row < S, H, 0))[:, None] & (cols < D)[None, :]
        x_ptrs = x_ptr + batch * stride_xb + row * stride_xs + head_offsets
        out = norm_and_rotate(
            x_ptrs,
            mask,
            row < S_IMG,
            img_weight_ptr,
            txt_weight_ptr,
            cos_ptr,
            sin_ptr,
            row,
            D,
            BLOCK_H,
            BLOCK_D,
        )
        out_ptrs = x_ptrs
        if starts_ptr is not None:
            place = S * (batch * H + first) + row * count + heads - first
            out_ptrs = out_ptr + place[:, None] * D + cols[None, :]
        tl.store(out_ptrs, out.to(x_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["x"])
def rms_norm_rope_(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> None:
    check_rope(OP, x, img_weight, txt_weight, freqs_cos, freqs_sin)
    launch_rope(OP, x, img_weight, txt_weight, freqs_cos, freqs_sin)


def launch_rope(
    op: str,
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    starts: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    """Run the kernel in place, or, with `starts` and `out`, into the layout that is sent."""
    batch, seq, heads, width = x.shape
    if x.numel() == 0:
        return
    # On a CPU few rows: they are a loop, and masked ones are interpreted, too.
    interpreted = LaunchConfig(rows=4, num_warps=1) if x.device.type == "cpu" else None
    config = launch_config(op, heads * width, x.device, interpreted)
    launch(
        _rms_norm_rope_kernel,
        (cdiv(seq, config.rows), batch),
        x,
        img_weight,
        txt_weight,
        freqs_cos,
        freqs_sin,
        starts,
        out,
        seq,
        len(freqs_cos),
        *x.stride()[:3],
        H=heads,
        D=width,
        ROWS=config.rows,
        BLOCK_H=next_power_of_2(heads),
        BLOCK_D=next_power_of_2(width),
        num_warps=config.num_warps,
        on=x,
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


@recomputed(gives_up_first=True)
def rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> Tensor:
    rms_norm_rope_(x, img_weight, txt_weight, freqs_cos, freqs_sin)
    return x
