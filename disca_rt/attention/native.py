"""Attention in C++ for a CPU, over narrow heads: PyTorch's pads them and is made for wide ones."""

from importlib.util import find_spec

from torch import Tensor

from ..kernels import __name__ as kernels
from .pytorch_kernels import sdpa

WIDEST = 64  # of a head, up to which it is the faster


def missing() -> str | None:
    """Say why it is not here; None where it is."""
    built = find_spec(f"{kernels}._cpu")
    return None if built else "the C++ extension disca_rt.kernels._cpu is not built"


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by blocks of keys with running sums (arXiv 2205.14135); gradients are PyTorch's."""
    from ..kernels import _cpu
    from ..kernels.native import is_plain

    found = _cpu.attention(q, k, v, valid) if is_plain() else None
    return sdpa(q, k, v, valid) if found is None else found
