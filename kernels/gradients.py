"""Gradients of the fused ops: forward is the kernel's, backward the reference's, computed again.

`recomputed` keeps an op's inputs and nothing else. `products_kept` is for ops that are made of the
library's GEMMs: where a gradient is wanted they are the reference, whose products are kept, because
one more GEMM costs more than a pass over its result. The reference has every op by its name; this
module knows no particular one.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import reference
from .packing import Packing
from .registration import NAMESPACE, refuse_tangents, wants_gradient

RECOMPUTED: list["RecomputedOp"] = []  # what there is, for those who check all of it


class RecomputedOp:
    """The fused op or, where a gradient is wanted, a functional one with a backward.

    That one is `torch.ops.disca_rt.<name>`; it ignores `out=`, as the reference does.
    """

    def __init__(self, fused: Callable[..., Any], schema: str, gives_up_first: bool) -> None:
        name = fused.__name__
        self._fused, self._reference = fused, getattr(reference, name)
        self._gives_up_first, self._takes_packing = gives_up_first, "int[] counts" in schema
        self._op = torch.library.custom_op(
            f"{NAMESPACE}::{name}", self._forward, mutates_args=(), schema=schema
        )
        self._op.register_fake(self._fake)
        self._op.register_autograd(self._backward, setup_context=self._keep)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default  # for opcheck
        wraps(fused)(self)
        RECOMPUTED.append(self)

    def __call__(self, *args: Any, out: Any = None) -> Any:
        refuse_tangents(self.__name__, args)
        if wants_gradient(args):
            return self._op(*flat(args))
        return self._fused(*args) if out is None else self._fused(*args, out=out)

    def _forward(self, *args: Any) -> Any:
        first, *others = self._arguments(args)
        if self._gives_up_first:
            first = first.clone(memory_format=torch.contiguous_format)
        return self._fused(first, *others)

    def _fake(self, *args: Any) -> Any:
        dtype = args[0].dtype
        args = [a.to(dtype) if isinstance(a, Tensor) else a for a in self._arguments(args)]
        with torch.autocast(args[0].device.type, enabled=False):
            results = self._reference(*args)
        if isinstance(results, Tensor):
            return results.new_empty(results.shape)
        return tuple(each.new_empty(each.shape) for each in results)

    @staticmethod
    def _keep(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.save_for_backward(*(each if isinstance(each, Tensor) else None for each in inputs))
        ctx.others = [None if isinstance(each, Tensor) else each for each in inputs]
        kind = inputs[0].device.type
        ctx.autocast = {
            "device_type": kind,
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
        }

    def _backward(self, ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"op {self.__name__} has no second derivative; build the model with ops 'reference'"
            )
        inputs = [
            other if saved is None else saved.detach().requires_grad_(needed)
            for saved, other, needed in zip(
                ctx.saved_tensors, ctx.others, ctx.needs_input_grad, strict=True
            )
        ]
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            results = self._reference(*self._arguments(inputs))
        results = [results] if isinstance(results, Tensor) else results
        found = iter(
            torch.autograd.grad(
                results,
                [each for each, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed],
                [g.to(each.dtype) for g, each in zip(gradients, results, strict=True)],
            )
        )
        return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)

    def _arguments(self, args: Sequence[Any]) -> Sequence[Any]:
        """What the op is called with: the opposite of `flat`."""
        if not self._takes_packing:
            return args
        *others, counts, starts = args
        return [*others, Packing(tuple(counts), starts)]


def recomputed(schema: str, gives_up_first: bool = False) -> Callable[..., RecomputedOp]:
    """Give the decorated op its reference's backward.

    `schema` is torch.library's, without `out`; a `Packing` is its counts and its starts.
    `gives_up_first`: the op may work in place of its first argument.
    """
    return lambda fused: RecomputedOp(fused, schema, gives_up_first)


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


def flat(args: Iterable[Any]) -> list[Any]:
    """`args` as a schema has them: a packing as its counts and its starts."""
    return [each for arg in args for each in (arg if isinstance(arg, Packing) else (arg,))]


def _is_autocast(values: Sequence[Any]) -> bool:
    first = next(each for each in tree_leaves(values) if isinstance(each, Tensor))
    kind = first.device.type  # of the meta device nothing is cast, and PyTorch refuses to say so
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
