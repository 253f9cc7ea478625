"""RMSNorm over each head, RoPE on image rows, and e4m3 by a fixed scale: 1.5 activations moved.

The scale is on the device and follows from the norm's weights (`fp8_reference.rope_scale`), so that
no pass looks for the largest value.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import to_e4m3
from .launch import cdiv, check_shape, launch, next_power_of_2, part_of_row, rows_config, turns_of
from .quantized import E4M3
from .registration import register_op
from .rms_norm_rope import check_rope, load_pairs, normed_pairs, rotated, weighted_angles
from .row_tile import rows_of_turn

OP = "rms_norm_rope_quantize"


@triton.jit
def _rms_norm_rope_quantize_kernel(
    x_ptr,
    img_weight_ptr,
    txt_weight_ptr,
    cos_ptr,
    sin_ptr,
    scale_ptr,
    out_ptr,
    stride_xb,
    stride_xs,
    stride_xh,
    S,
    S_IMG,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TURNS: tl.constexpr,
):
    PARTS: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    batch = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK_D)[None, None, :]
    half = tl.arange(0, BLOCK_D // 2)[None, None, :]
    heads = tl.arange(0, BLOCK_H)[None, :, None]
    inverse = 1.0 / tl.load(scale_ptr)
    img_weight = load_pairs(img_weight_ptr, D, BLOCK_D)
    txt_weight = load_pairs(txt_weight_ptr, D, BLOCK_D)
    for turn in range(TURNS):
        rows, in_rows = rows_of_turn(turn, S, BLOCK_M, TURNS)
        rows, in_rows = rows[:, :, None], in_rows[:, :, None]
        is_img = rows < S_IMG
        angle_offs, is_angle = rows * (D // 2) + half, is_img & (half < D // 2)
        cos = tl.load(cos_ptr + angle_offs, mask=is_angle, other=1.0)
        sin = tl.load(sin_ptr + angle_offs, mask=is_angle, other=0.0)
        even_weight = tl.where(is_img, img_weight[0], txt_weight[0])
        odd_weight = tl.where(is_img, img_weight[1], txt_weight[1])
        angles = weighted_angles((even_weight * inverse, odd_weight * inverse), cos, sin)
        x_ptrs = x_ptr + batch * stride_xb + rows * stride_xs + cols
        out_ptrs = out_ptr + (batch * S + rows) * (H * D) + cols
        values = ()
        for part in tl.static_range(PARTS):
            head = part * BLOCK_H + heads
            mask = in_rows & (head < H) & (cols < D)
            values = values + (tl.load(x_ptrs + head.to(tl.int64) * stride_xh, mask, 0.0),)
        for part in tl.static_range(PARTS):
            head = part * BLOCK_H + heads
            mask = in_rows & (head < H) & (cols < D)
            even, odd = normed_pairs(values[part], D)
            tl.store(out_ptrs + head * D, to_e4m3(rotated(even, odd, angles)), mask=mask)


@register_op(mutates=["out"])
def rms_norm_rope_quantize_into(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    scale: Tensor,
    out: Tensor,
) -> None:
    check_rope(OP, x, img_weight, txt_weight, freqs_cos, freqs_sin)
    check_shape(OP, "scale", scale, (1,))
    check_shape(OP, "out", out, x.shape)
    batch, seq, heads, width = x.shape
    if x.numel() == 0:
        return
    config = rows_config(OP, heads * width, x.device)
    turns = turns_of(config, seq, batch)
    launch(
        _rms_norm_rope_quantize_kernel,
        (cdiv(seq, config.rows * turns), batch),
        x,
        img_weight,
        txt_weight,
        freqs_cos,
        freqs_sin,
        scale,
        out.view(E4M3),
        *x.stride()[:3],
        seq,
        len(freqs_cos),
        H=heads,
        D=width,
        BLOCK_M=config.rows,
        BLOCK_H=part_of_row(heads, next_power_of_2(width)),
        BLOCK_D=next_power_of_2(width),
        TURNS=turns,
        num_warps=config.num_warps,
        on=x,
    )


def rms_norm_rope_quantize(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    scale: Tensor,
) -> Tensor:
    out = torch.empty(x.shape, dtype=E4M3, device=x.device)
    rms_norm_rope_quantize_into(
        x, img_weight, txt_weight, freqs_cos, freqs_sin, scale, out.view(torch.uint8)
    )
    return out
