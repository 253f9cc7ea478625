"""The table of op implementations. A model is given one row when it is built and never asks which.

A row is a module that exposes the names of `Ops`; `reference` is plain PyTorch and runs anywhere.
Asking for a row is explicit: there is no fallback from one to another.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

from . import reference


class Ops(NamedTuple):
    """The ops of one implementation; `kernels/reference.py` documents each of them."""

    buffer: Callable[..., Tensor | None]
    join_tokens: Callable[..., Tensor]
    joint_linear: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    layer_norm_modulate: Callable[..., Tensor]
    gate_residual: Callable[..., Tensor]
    gate_residual_layer_norm_modulate: Callable[..., tuple[Tensor, Tensor]]
    rms_norm_rope: Callable[..., Tensor]
    gelu_tanh: Callable[..., Tensor]
    attention_mlp: Callable[..., Tensor]
    fuse_cached: Callable[..., Tensor]
    unpatchify: Callable[..., Tensor]
    euler_step: Callable[..., Tensor]
    cfg_combine: Callable[..., Tensor]


IMPLEMENTATIONS: dict[str, ModuleType] = {"reference": reference}


def get_ops(name: str) -> Ops:
    """The ops called `name`; raises ValueError listing the known names."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"ops must be one of {sorted(IMPLEMENTATIONS)}, got {name!r}")
    return Ops(*(getattr(IMPLEMENTATIONS[name], op) for op in Ops._fields))
