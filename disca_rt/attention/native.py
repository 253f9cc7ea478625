"""Attention in C++ for a CPU, over narrow heads: PyTorch's pads them and is made for wide ones."""

from functools import cache
from importlib import import_module
from types import ModuleType

from torch import Tensor

from ..kernels import __name__ as kernels
from .pytorch_kernels import sdpa

WIDEST = 64  # of a head, up to which it is the faster


@cache
def extension() -> ModuleType | None:
    """The ops in C++; None where they are not built."""
    try:
        return import_module(f"{kernels}.native")
    except ImportError:
        return None


def missing() -> str | None:
    """Say why it is not here; None where it is."""
    return None if extension() else f"the C++ extension {kernels}._cpu is not built"


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by blocks of keys with running sums (arXiv 2205.14135); gradients are PyTorch's."""
    found = extension().attention(q, k, v, valid)
    return sdpa(q, k, v, valid) if found is None else found
