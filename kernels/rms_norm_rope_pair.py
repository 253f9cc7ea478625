"""`rms_norm_rope` of q and k at once, in place: 4 activations moved, and the tables read once."""

from torch import Tensor

from .gradients import recomputed
from .launch import check_shape
from .registration import register_op
from .rms_norm_rope import check_rope, launch_rope

OP = "rms_norm_rope_pair"


@register_op(mutates=["q", "k"])
def rms_norm_rope_pair_(
    q: Tensor,
    k: Tensor,
    q_img_weight: Tensor,
    q_txt_weight: Tensor,
    k_img_weight: Tensor,
    k_txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
) -> None:
    check_rope(OP, q, q_img_weight, q_txt_weight, freqs_cos, freqs_sin)
    check_rope(OP, k, k_img_weight, k_txt_weight, freqs_cos, freqs_sin)
    check_shape(OP, "k", k, q.shape)
    img_weights, txt_weights = [q_img_weight, k_img_weight], [q_txt_weight, k_txt_weight]
    launch_rope(OP, [q, k], img_weights, txt_weights, freqs_cos, freqs_sin)


@recomputed(gives_up=2)
def rms_norm_rope_pair(
    q: Tensor,
    k: Tensor,
    q_img_weight: Tensor,
    q_txt_weight: Tensor,
    k_img_weight: Tensor,
    k_txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
) -> tuple[Tensor, Tensor]:
    weights = q_img_weight, q_txt_weight, k_img_weight, k_txt_weight
    rms_norm_rope_pair_(q, k, *weights, freqs_cos, freqs_sin)
    return q, k
