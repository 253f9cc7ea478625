"""The row "triton" of the ops: every op of `reference` by its fused kernel, or by its GEMM.

What no kernel makes faster is the reference's: unpatchify alone is on no fused path.
"""

from collections.abc import Callable
from typing import Any

from .block_sparse_attention import block_sparse_attention as block_sparse_attention
from .euler_step import euler_step as euler_step
from .finite_differences import finite_differences as finite_differences
from .forecast import forecast as forecast
from .forecast_channels import forecast_channels as forecast_channels
from .gate_residual import gate_residual as gate_residual
from .gate_residual_layer_norm_modulate import (
    gate_residual_layer_norm_modulate as gate_residual_layer_norm_modulate,
)
from .gate_residual_layer_norm_modulate_quantize import (
    gate_residual_layer_norm_modulate_quantize as gate_residual_layer_norm_modulate_quantize,
)
from .gated_sum import gated_sum as gated_sum
from .gelu_tanh import gelu_tanh_
from .head import head as head
from .joint_linear import buffer as buffer
from .joint_linear import join_tokens as join_tokens
from .joint_linear import joint_linear as joint_linear
from .layer_norm import layer_norm as layer_norm
from .layer_norm_modulate import layer_norm_modulate as layer_norm_modulate
from .layer_norm_modulate_quantize import (
    layer_norm_modulate_quantize as layer_norm_modulate_quantize,
)
from .linear_gelu import linear_gelu as linear_gelu
from .pair_linear import fuse_cached as fuse_cached
from .pair_linear import pair_linear as pair_linear
from .quantize_heads import quantize_heads as quantize_heads
from .quantize_heads import scale_heads as scale_heads
from .quantize_joint import quantize_joint as quantize_joint
from .quantized import quantized_buffer as quantized_buffer
from .reference import unpatchify as unpatchify
from .rms_norm_rope import rms_norm_rope as rms_norm_rope
from .rms_norm_rope_pair import rms_norm_rope_pair as rms_norm_rope_pair
from .rms_norm_rope_quantize import rms_norm_rope_quantize as rms_norm_rope_quantize
from .rms_norm_rope_send import rms_norm_rope_send as rms_norm_rope_send
from .scaled_linear import scaled_linear as scaled_linear


def implementation(op: str) -> Callable[..., Any]:
    """The kernel of `op`, an op of this row or the GELU in place that `linear_gelu` ends in."""
    return gelu_tanh_ if op == "gelu_tanh" else globals()[op]
