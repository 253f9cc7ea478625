"""The row "triton" of the ops: every op of `reference` by its fused kernel, or by its GEMM.

What no kernel makes faster is the reference's: unpatchify alone is on no fused path.
"""

from .euler_step import euler_step
from .finite_differences import finite_differences
from .forecast import forecast
from .gate_residual import gate_residual
from .gate_residual_layer_norm_modulate import gate_residual_layer_norm_modulate
from .head import head
from .joint_linear import buffer, join_tokens, joint_linear
from .layer_norm import layer_norm
from .layer_norm_modulate import layer_norm_modulate
from .linear_gelu import linear_gelu
from .pair_linear import fuse_cached, pair_linear
from .reference import unpatchify
from .relative_l1 import relative_l1
from .rms_norm_rope import rms_norm_rope
from .rms_norm_rope_send import rms_norm_rope_send

__all__ = [
    "buffer",
    "euler_step",
    "finite_differences",
    "forecast",
    "fuse_cached",
    "gate_residual",
    "gate_residual_layer_norm_modulate",
    "head",
    "join_tokens",
    "joint_linear",
    "layer_norm",
    "layer_norm_modulate",
    "linear_gelu",
    "pair_linear",
    "relative_l1",
    "rms_norm_rope",
    "rms_norm_rope_send",
    "unpatchify",
]
