"""`rms_norm_rope` into the layout that the all-to-all sends: no permutation before the exchange.

Of each sample the rows of rank r's heads lie together, `[S, H_r, D]`, one rank's block after
another's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import cdiv, check_rows, check_shape, launch, next_power_of_2
from .packing import Packing
from .registration import register_op
from .rms_norm_rope import check_rope, norm_and_rotate, rope_config

OP = "rms_norm_rope_send"


@triton.jit
def _rms_norm_rope_send_kernel(
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
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    heads = tl.arange(0, BLOCK_H)
    cols = tl.arange(0, BLOCK_D)
    valid = heads < H
    # Of each head: the first head of the rank that gets it, and how many that rank gets.
    first = tl.load(starts_ptr + heads, mask=valid, other=0).to(tl.int64)
    count = tl.load(starts_ptr + H + heads, mask=valid, other=0).to(tl.int64)
    for index in range(BLOCK_M):
        row = (tl.program_id(0) * BLOCK_M + index).to(tl.int64)
        mask = (heads < tl.where(row < S, H, 0))[:, None] & (cols < D)[None, :]
        x_ptrs = x_ptr + batch * stride_xb + row * stride_xs
        x_ptrs = x_ptrs + heads.to(tl.int64)[:, None] * stride_xh + cols[None, :]
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
        place = S * (batch * H + first) + row * count + heads - first
        out_ptrs = out_ptr + place[:, None] * D + cols[None, :]
        tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


@register_op(mutates=["out"])
def rms_norm_rope_send_into(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    starts: Tensor,
    out: Tensor,
) -> None:
    batch, seq, heads, width = x.shape
    check_rope(OP, x, img_weight, txt_weight, freqs_cos, freqs_sin)
    check_rows(OP, x=x, out=out)
    check_shape(OP, "starts", starts, (2, heads))
    if starts.dtype != torch.int32 or not starts.is_contiguous() or starts.device != x.device:
        raise ValueError(f"{OP}: starts must be contiguous int32 on {x.device}")
    check_shape(OP, "out", out, (batch, seq * heads, width))
    if x.numel() == 0:
        return
    config = rope_config(OP, x)
    launch(
        _rms_norm_rope_send_kernel,
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
        BLOCK_M=config.rows,
        BLOCK_H=next_power_of_2(heads),
        BLOCK_D=next_power_of_2(width),
        num_warps=config.num_warps,
        on=x,
    )


@recomputed(
    "(Tensor x, Tensor img_weight, Tensor txt_weight, Tensor freqs_cos, Tensor freqs_sin, "
    "int[] counts, Tensor starts) -> Tensor"
)
def rms_norm_rope_send(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    packing: Packing,
) -> Tensor:
    batch, seq, heads, width = x.shape
    out = torch.empty((batch, seq * heads, width), dtype=x.dtype, device=x.device)
    rms_norm_rope_send_into(x, img_weight, txt_weight, freqs_cos, freqs_sin, packing.starts, out)
    return out
