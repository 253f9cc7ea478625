"""The table of op implementations. A model is given one row when it is built and never asks which.

A row is a module that exposes the names of `Ops`; `reference` is plain PyTorch and runs anywhere.
Asking for a row is explicit: there is no fallback from one to another.
"""

import os
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .operand import OperandOps


class Ops(NamedTuple):
    """The ops of one implementation; `kernels/reference.py` documents each of them.

    Those with weights take an operand (`kernels/operand.py`) in place of weight and bias.
    """

    buffer: Callable[..., Tensor | None]
    join_tokens: Callable[..., Tensor]
    joint_linear: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    layer_norm_modulate: Callable[..., Tensor]
    gate_residual: Callable[..., Tensor]
    gate_residual_layer_norm_modulate: Callable[..., tuple[Tensor, Tensor]]
    rms_norm_rope: Callable[..., Tensor]
    rms_norm_rope_send: Callable[..., Tensor]
    linear_gelu: Callable[..., Tensor]
    pair_linear: Callable[..., Tensor]
    fuse_cached: Callable[..., Tensor]
    head: Callable[..., Tensor]
    unpatchify: Callable[..., Tensor]
    euler_step: Callable[..., Tensor]
    relative_l1: Callable[..., Tensor]
    finite_differences: Callable[..., None]
    forecast: Callable[..., Tensor]


def _triton(device: torch.device) -> ModuleType:
    if os.environ.get("TRITON_INTERPRET") != "1":
        if not torch.cuda.is_available():
            raise ValueError(
                "ops 'triton' need a GPU, and there is none; choose 'reference' "
                "(or set TRITON_INTERPRET=1 to try the kernels slowly on the CPU)"
            )
        if device.type != "cuda":
            raise ValueError(
                f"ops 'triton' run on a GPU, got device {str(device)!r}; choose device 'cuda', "
                "or ops 'reference'"
            )
    try:
        from . import fused
    except ImportError as error:
        raise ValueError(f"ops 'triton' need the package triton: {error}") from error
    return fused


IMPLEMENTATIONS: dict[str, Callable[[torch.device], ModuleType]] = {
    "reference": lambda device: reference,
    "triton": _triton,
}


def get_ops(name: str, device: torch.device | str = "cuda") -> Ops:
    """The ops called `name`; ValueError for an unknown name, or where they cannot run.

    `device` is where their tensors will be.
    """
    check_ops(name)
    row = IMPLEMENTATIONS[name](torch.device(device))
    over_operands = OperandOps(row)
    return Ops(*(getattr(over_operands, op, getattr(row, op)) for op in Ops._fields))


def check_ops(name: str) -> None:
    """ValueError unless there are ops called `name`."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"ops must be one of {sorted(IMPLEMENTATIONS)}, got {name!r}")
