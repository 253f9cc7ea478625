"""Modulated ops over rows of which each group has vectors of its own.

An op takes one vector a sample. Groups are contiguous rows, so it runs once for each, on views of
the rows and into views of one result; where all rows have the same vectors nothing is added.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import RowVectors, Vector


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The rows `[B, R, C]` of `x [B, S, C]` that `rows [B, R]` number."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def layer_norm_modulate(
    ops: Ops,
    x: Tensor,
    shift: Vector,
    scale: Vector,
    rows: Tensor | None = None,
    quantize: bool = False,
) -> Input:
    """`LayerNorm(x)·(1 + scale) + shift` of rows `x [B, S, C]`, or those numbered `rows [B, R]`.

    Quantized where it is so wanted.
    """
    op = ops.layer_norm_modulate_quantize if quantize else ops.layer_norm_modulate
    if rows is not None:
        return _of_some(op, take_rows(x, rows), shift, scale, rows)
    if isinstance(shift, Tensor):
        return op(x, shift, scale)

    def compute(*args: Tensor, out: Sequence[Input | None]) -> tuple[Input]:
        return (op(*args, out=out[0]),)

    out = normed_buffer(ops, x, x.shape, quantize)
    return _by_group(ops, compute, (x,), (shift, scale), (out,))[0]


def normed_buffer(ops: Ops, like: Tensor, shape: tuple[int, ...], quantize: bool) -> Input | None:
    """Memory for what a modulated norm gives, or None where ops return tensors of their own."""
    return (ops.quantized_buffer if quantize else ops.buffer)(like, shape)


def _of_some(
    op: Callable[..., Input], x: Tensor, shift: Vector, scale: Vector, rows: Tensor
) -> Input:
    """Modulated LayerNorm of rows `x [B, R, C]`, numbered `rows` among those of the vectors."""
    if isinstance(shift, Tensor):
        return op(x, shift, scale)
    groups = torch.zeros_like(rows)
    for start in shift.starts:
        groups = groups + (rows >= start)
    # Rows of all groups are mixed, so that each row is a sample to the op.
    each = (take_rows(vectors.values, groups).flatten(0, 1) for vectors in (shift, scale))
    return op(x.reshape(-1, 1, x.shape[2]), *each).reshape(x.shape)


def gate_residual(
    ops: Ops, x: Tensor, branch: Tensor, gate: Vector, out: Tensor | None = None
) -> Tensor:
    """`x + gate·branch` of rows `[B, S, C]`. `out`: preferred destination, may be ignored."""
    if isinstance(gate, Tensor):
        return ops.gate_residual(x, branch, gate, out=out)

    def compute(*args: Tensor, out: Sequence[Tensor | None]) -> tuple[Tensor]:
        return (ops.gate_residual(*args, out=out[0]),)

    return _by_group(ops, compute, (x, branch), (gate,), (out,))[0]


def gated_sum(
    ops: Ops, x: Tensor, *branches_and_gates: Tensor | RowVectors, out: Tensor | None = None
) -> Tensor:
    """`x + Σ gate·branch` of rows `[B, S, C]`. `out`: preferred destination, may be ignored."""
    branches, gates = branches_and_gates[::2], branches_and_gates[1::2]
    if isinstance(gates[0], Tensor):
        return ops.gated_sum(x, *branches_and_gates, out=out)

    def compute(x: Tensor, *args: Tensor, out: Sequence[Tensor | None]) -> tuple[Tensor]:
        pairs = zip(args[: len(gates)], args[len(gates) :], strict=True)
        return (ops.gated_sum(x, *(each for pair in pairs for each in pair), out=out[0]),)

    return _by_group(ops, compute, (x, *branches), gates, (out,))[0]


def gate_residual_layer_norm_modulate(
    ops: Ops,
    x: Tensor,
    branch: Tensor,
    gate: Vector,
    shift: Vector,
    scale: Vector,
    out: tuple[Tensor | None, Input | None] = (None, None),
    quantize: bool = False,
) -> tuple[Tensor, Input]:
    """The residual `x + gate·branch` and its `layer_norm_modulate`, both `[B, S, C]`.

    The latter quantized where it is so wanted.
    """
    op = ops.gate_residual_layer_norm_modulate
    if quantize:
        op = ops.gate_residual_layer_norm_modulate_quantize
    if isinstance(gate, Tensor):
        return op(x, branch, gate, shift, scale, out=out)
    if out[1] is None:
        out = out[0], normed_buffer(ops, x, x.shape, quantize)
    return _by_group(ops, op, (x, branch), (gate, shift, scale), out)


def gate_rows(branch: Tensor, gate: Vector) -> Tensor:
    """`gate·branch` of rows `[B, S, C]`, without an op of its own: only measurements need it."""
    if isinstance(gate, Tensor):
        return branch * gate[:, None]
    of_groups = zip(branch.tensor_split(gate.starts, 1), gate.values.unbind(1), strict=True)
    return torch.cat([rows * each[:, None] for rows, each in of_groups], dim=1)


def _by_group(
    ops: Ops,
    compute: Callable[..., Sequence[Input]],
    rows: Sequence[Tensor],
    vectors: Sequence[RowVectors],
    out: Sequence[Input | None],
) -> tuple[Input, ...]:
    """The results of `compute`, as many as `out`, each of the rows of all groups.

    A rank's share may lack a group: it has no rows then, which is nothing to compute.
    """
    starts = vectors[0].starts

    def of_groups(tensor: Input | None) -> Sequence[Any]:
        no_memory = (None,) * (len(starts) + 1)
        return no_memory if tensor is None else tensor.tensor_split(starts, dim=1)

    outs = [ops.buffer(rows[0], rows[0].shape) if each is None else each for each in out]
    groups = zip(
        zip(*map(of_groups, rows), *(each.values.unbind(1) for each in vectors), strict=True),
        zip(*map(of_groups, outs), strict=True),
        strict=True,
    )
    results = [compute(*args, out=of_outs) for args, of_outs in groups]
    return tuple(
        ops.join_tokens(*parts, out=whole)
        for parts, whole in zip(zip(*results, strict=True), outs, strict=True)
    )
