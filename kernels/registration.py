"""The one way an op enters torch.library, so that no misuse of it passes silently.

`torch.func.jvp` through a custom op gives zero derivatives without an error. A registered op looks
for tangents and gradients before it runs, and refuses them; what has a backward gets it in
`gradients`. This module knows no particular op.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

NAMESPACE = "disca_rt"
REGISTERED: list["RegisteredOp"] = []  # what there is, for those who check all of it


class RegisteredOp:
    """`torch.ops.disca_rt.<name>`, called through a check; see `register_op`."""

    def __init__(self, run: Callable[..., Any], mutates: Iterable[str]) -> None:
        name = run.__name__
        self.launcher = run
        self._op = torch.library.custom_op(f"{NAMESPACE}::{name}", run, mutates_args=mutates)
        self.register_fake = self._op.register_fake  # shapes and dtypes, for compilers
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default  # for opcheck
        wraps(run)(self)
        REGISTERED.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        refuse_tangents(self.__name__, values)
        if wants_gradient(values):
            raise RuntimeError(
                f"op {self.__name__} has no backward; take the op of `disca_rt.kernels.fused` that "
                "it belongs to, or run it under torch.no_grad()"
            )
        return self._op(*args, **kwargs)


def register_op(mutates: Iterable[str] = ()) -> Callable[[Callable[..., Any]], RegisteredOp]:
    """Register the decorated launcher under its own name; `mutates` names the inputs it writes."""
    return lambda run: RegisteredOp(run, mutates)


def refuse_tangents(name: str, values: Iterable[Any]) -> None:
    """Raise RuntimeError if a tensor among `values` is being differentiated in forward mode."""
    if forward_ad._current_level < 0:
        return
    for value in _tensors(values):
        if forward_ad.unpack_dual(value).tangent is not None:
            raise RuntimeError(
                f"op {name} has no forward-mode derivative, PyTorch would take it for zero; "
                "build the model with ops 'reference'"
            )


def wants_gradient(values: Iterable[Any]) -> bool:
    """Tell whether autograd records operations on one of the tensors among `values`."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in _tensors(values))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(list(values)) if isinstance(leaf, Tensor))
