"""The row "triton" of the ops: every op of `reference` by its fused kernel, or by its GEMM.

What no kernel makes faster is the reference's: unpatchify alone is on no fused path.
"""

from .attention_mlp import attention_mlp
from .euler_step import euler_step
from .finite_differences import finite_differences
from .forecast import forecast
from .fuse_cached import fuse_cached
from .gate_residual import gate_residual
from .gate_residual_layer_norm_modulate import gate_residual_layer_norm_modulate
from .gelu_tanh import gelu_tanh
from .head import head
from .joint_linear import buffer, join_tokens, joint_linear
from .layer_norm import layer_norm
from .layer_norm_modulate import layer_norm_modulate
from .reference import unpatchify
from .relative_l1 import relative_l1
from .rms_norm_rope import rms_norm_rope

__all__ = [
    "attention_mlp",
    "buffer",
    "euler_step",
    "finite_differences",
    "forecast",
    "fuse_cached",
    "gate_residual",
    "gate_residual_layer_norm_modulate",
    "gelu_tanh",
    "head",
    "join_tokens",
    "joint_linear",
    "layer_norm",
    "layer_norm_modulate",
    "relative_l1",
    "rms_norm_rope",
    "unpatchify",
]
