"""The table of op implementations. A model is given one row when it is built and never asks which.

A row is a module that exposes the names of `Ops`; `reference` is plain PyTorch and runs anywhere.
A row that is asked for is had or refused: there is no fallback from one to another.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from . import reference
from .operand import OperandOps


class Ops:
    """The ops of one implementation; `kernels/reference.py` has signature and meaning of each.

    Those with weights take an operand (`kernels/operand.py`) in place of weight and bias.
    """

    buffer = staticmethod(reference.buffer)
    quantized_buffer = staticmethod(reference.quantized_buffer)
    join_tokens = staticmethod(OperandOps.join_tokens)
    joint_linear = staticmethod(OperandOps.joint_linear)
    layer_norm = staticmethod(OperandOps.layer_norm)
    layer_norm_modulate = staticmethod(reference.layer_norm_modulate)
    gate_residual = staticmethod(reference.gate_residual)
    gated_sum = staticmethod(reference.gated_sum)
    gate_residual_layer_norm_modulate = staticmethod(reference.gate_residual_layer_norm_modulate)
    rms_norm_rope = staticmethod(reference.rms_norm_rope)
    rms_norm_rope_pair = staticmethod(reference.rms_norm_rope_pair)
    rms_norm_rope_send = staticmethod(reference.rms_norm_rope_send)
    layer_norm_modulate_quantize = staticmethod(reference.layer_norm_modulate_quantize)
    gate_residual_layer_norm_modulate_quantize = staticmethod(
        reference.gate_residual_layer_norm_modulate_quantize
    )
    rms_norm_rope_quantize = staticmethod(reference.rms_norm_rope_quantize)
    quantize_joint = staticmethod(reference.quantize_joint)
    quantize_heads = staticmethod(reference.quantize_heads)
    scale_heads = staticmethod(reference.scale_heads)
    scaled_linear = staticmethod(reference.scaled_linear)
    linear_gelu = staticmethod(OperandOps.linear_gelu)
    pair_linear = staticmethod(OperandOps.pair_linear)
    fuse_cached = staticmethod(OperandOps.fuse_cached)
    head = staticmethod(OperandOps.head)
    unpatchify = staticmethod(reference.unpatchify)
    euler_step = staticmethod(reference.euler_step)
    finite_differences = staticmethod(reference.finite_differences)
    forecast = staticmethod(reference.forecast)
    forecast_channels = staticmethod(reference.forecast_channels)

    def __init__(self, **ops: Callable[..., Any]) -> None:
        """Take every op of `OP_NAMES`, under its name."""
        assert ops.keys() == set(OP_NAMES), sorted(ops.keys() ^ set(OP_NAMES))
        vars(self).update(ops)


OP_NAMES = tuple(name for name, op in vars(Ops).items() if isinstance(op, staticmethod))


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


def _native(device: torch.device) -> ModuleType:
    if device.type not in ("cpu", "meta"):
        raise ValueError(
            f"ops 'native' run on a CPU, got device {str(device)!r}; choose 'triton' or 'reference'"
        )
    try:
        from . import native
    except ImportError as error:
        raise ValueError(
            "ops 'native' need the C++ extension disca_rt.kernels._cpu, which is not built for "
            "this Python: pip install --no-build-isolation . in the source folder (make does it "
            "too), or choose 'reference'"
        ) from error
    return native


IMPLEMENTATIONS: dict[str, Callable[[torch.device], ModuleType]] = {
    "reference": lambda device: reference,
    "triton": _triton,
    "native": _native,
}


def default_ops(device: torch.device | str) -> str:
    """The name of the fastest ops on `device`: kernels on a GPU, loops in C++ on a CPU.

    Where the C++ extension is not built, those on a CPU are the reference's.
    """
    if torch.device(device).type == "cuda":
        return "triton"
    return "reference" if find_spec(f"{__package__}._cpu") is None else "native"


def get_ops(name: str, device: torch.device | str = "cuda") -> Ops:
    """The ops called `name`; ValueError for an unknown name, or where they cannot run.

    `device` is where their tensors will be.
    """
    check_ops(name)
    return _from_module(IMPLEMENTATIONS[name](torch.device(device)))


@cache
def _from_module(row: ModuleType) -> Ops:
    over_operands = OperandOps(row)
    return Ops(**{op: getattr(over_operands, op, None) or getattr(row, op) for op in OP_NAMES})


def check_ops(name: str) -> None:
    """Raise ValueError unless there are ops called `name`."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"ops must be one of {sorted(IMPLEMENTATIONS)}, got {name!r}")
