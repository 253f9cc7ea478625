"""`rms_norm_rope` into the layout that the all-to-all sends: no permutation before the exchange.

Rows of rank r's heads lie together in each sample, `[S, H_r, D]`, one rank's block after another's.
"""

import torch
from torch import Tensor

from .gradients import recomputed
from .launch import check_rows, check_shape
from .packing import Packing
from .registration import register_op
from .rms_norm_rope import check_rope, launch_rope

OP = "rms_norm_rope_send"


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
    launch_rope(OP, [x], [img_weight], [txt_weight], freqs_cos, freqs_sin, starts, out)


@recomputed()
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
