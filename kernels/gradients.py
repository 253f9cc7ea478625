"""Gradients of the fused ops: forward is the kernel's, backward the reference's, computed again.

`recomputed` keeps an op's inputs and nothing else. `products_kept` is for ops that are made of the
library's GEMMs: where a gradient is wanted they are the reference, whose products are kept, because
one more GEMM costs more than a pass over its result. The reference has every op by its name; this
module knows no particular one.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import reference
from .registration import refuse_tangents, wants_gradient

RECOMPUTED: dict[str, "RecomputedOp"] = {}  # by name


class RecomputedOp:
    """The fused op; where a gradient is wanted, with its reference's backward.

    `out=` is ignored then, as the reference ignores it.
    """

    def __init__(self, fused: Callable[..., Any], gives_up: int) -> None:
        self.fused, self.reference = fused, getattr(reference, fused.__name__)
        self.gives_up = gives_up
        wraps(fused)(self)
        RECOMPUTED[fused.__name__] = self

    def __call__(self, *args: Any, out: Any = None) -> Any:
        refuse_tangents(self.__name__, args)
        if wants_gradient(args):
            return _Recomputed.apply(self.__name__, *args)
        return self.fused(*args) if out is None else self.fused(*args, out=out)


@torch._dynamo.allow_in_graph
class _Recomputed(torch.autograd.Function):
    """The `RecomputedOp` called `name` on its arguments."""

    @staticmethod
    def forward(name: str, *args: Any) -> Any:
        op = RECOMPUTED[name]
        given_up, others = args[: op.gives_up], args[op.gives_up :]
        copies = (each.clone(memory_format=torch.contiguous_format) for each in given_up)
        return op.fused(*copies, *others)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        name, *args = inputs
        ctx.op = RECOMPUTED[name]
        ctx.save_for_backward(*(each if isinstance(each, Tensor) else None for each in args))
        ctx.others = [None if isinstance(each, Tensor) else each for each in args]
        kind = args[0].device.type
        ctx.autocast = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"op {ctx.op.__name__} has no second derivative; build the model with ops "
                "'reference'"
            )
        needed = ctx.needs_input_grad[1:]
        inputs = [
            other if saved is None else saved.detach().requires_grad_(is_needed)
            for saved, other, is_needed in zip(ctx.saved_tensors, ctx.others, needed, strict=True)
        ]
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            results = ctx.op.reference(*inputs)
        results = [results] if isinstance(results, Tensor) else results
        found = iter(
            torch.autograd.grad(
                results,
                [each for each, is_needed in zip(inputs, needed, strict=True) if is_needed],
                [g.to(each.dtype) for g, each in zip(gradients, results, strict=True)],
            )
        )
        return (None, *(next(found) if is_needed else None for is_needed in needed))


def recomputed(gives_up: int = 0) -> Callable[[Callable[..., Any]], RecomputedOp]:
    """Give the decorated op its reference's backward.

    `gives_up`: the op may work in place of that many arguments, the first ones.
    """
    return lambda fused: RecomputedOp(fused, gives_up)


def products_kept(fused: Callable[..., Any]) -> Callable[..., Any]:
    """The decorated op; its reference where a gradient is wanted, or autocast has to choose dtypes.

    `out=` of a GEMM does not go with either.
    """
    plain = getattr(reference, fused.__name__)

    @wraps(fused)
    def op(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        refuse_tangents(fused.__name__, values)
        is_plain = wants_gradient(values) or _is_autocast(values)
        return (plain if is_plain else fused)(*args, **kwargs)

    return op


def _is_autocast(values: Sequence[Any]) -> bool:
    first = next(each for each in tree_leaves(values) if isinstance(each, Tensor))
    kind = first.device.type  # tensors on meta are never cast, and PyTorch refuses to say so;
    # Dynamo of 2.11 cannot trace `is_autocast_available`
    return kind != "meta" and torch.is_autocast_enabled(kind)
