"""Colours of classes and of steps, the same wherever one is drawn; legible on light and on dark."""

from .classes import ATTENTION, CACHE_OP, COLLECTIVE, CONVOLUTION, COPY, GAP, GEMM, OTHER

COLOURS = {
    ATTENTION: "#c2410c",
    GEMM: "#2563eb",
    CACHE_OP: "#be185d",
    COLLECTIVE: "#a16207",
    COPY: "#64748b",
    OTHER: "#78716c",
    GAP: "#9ca3af",
    # Fused ops.
    "layer_norm_modulate": "#15803d",
    "gate_residual_layer_norm_modulate": "#0f766e",
    "gate_residual": "#4d7c0f",
    "rms_norm_rope": "#7c3aed",
    "rms_norm_rope_pair": "#8b5cf6",
    "rms_norm_rope_send": "#6d28d9",
    "linear_gelu": "#0369a1",
    "pair_linear": "#0e7490",
    "joint_linear": "#1d4ed8",
    "fuse_cached": "#9d174d",
    "head": "#a21caf",
    "euler_step": "#b91c1c",
    "unpatchify": "#92400e",
    "layer_norm": "#166534",
    CONVOLUTION: "#9f1239",
    # Stages and steps.
    "loading": "#a8a29e",
    "prompts": "#b45309",
    "conditioning": "#6b7280",
    "decode": "#4338ca",
    "full": "#3b5875",
    "predicted": "#0d9488",
}


def colour(name: str) -> str:
    """Colour of a class, or of steps with this label, as "#rrggbb"; unknown: that of `OTHER`."""
    return COLOURS.get(name, COLOURS[OTHER])
