"""The residual stream between blocks: tokens whose last sum is still to be taken.

A block ends with x + gate·branch, and the next begins by normalising that. Handing on the three
tensors instead of the sum lets one op do both, whatever block comes next. Knows ops, no weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.ops import Ops
from ..tokens import Vector, of_text
from .row_groups import gate_residual, gate_residual_layer_norm_modulate, layer_norm_modulate


class PendingSum(NamedTuple):
    """Rows `x [B, S_i, C]`, to which `gate` · `branch` is yet to be added, if there is one.

    With image and text apart, either both have a branch or none has. The sum may be written into
    `x` where that is `spare`: a sum of these blocks, which nothing else reads.
    """

    x: Tensor
    branch: Tensor | None = None
    gate: Vector | None = None
    spare: bool = False


Stream = tuple[PendingSum, ...]
"""Pending sums of the joint rows (one), or of image and text (two)."""


def split_stream(stream: Stream, img_len: int, ops: Ops) -> Stream:
    """Split the stream into image and text."""
    if len(stream) == 2:
        return stream
    tokens = materialise(stream, ops)
    return PendingSum(tokens[:, :img_len]), PendingSum(tokens[:, img_len:])


def materialise(stream: Stream, ops: Ops, out: Tensor | None = None) -> Tensor:
    """Take every sum: joint tokens `[B, S, C]`. `out`: preferred destination, may be ignored."""
    if len(stream) == 1:
        return _sum(stream[0], ops, out)
    if stream[0].branch is None:
        return ops.join_tokens(*(part.x for part in stream))
    if out is None:
        out = _joint_buffer(stream, ops)
    sums = [_sum(part, ops, rows) for part, rows in zip(stream, _rows(stream, out), strict=True)]
    return ops.join_tokens(*sums, out=out)


def add_norm(part: PendingSum, shift: Vector, scale: Vector, ops: Ops) -> tuple[Tensor, ...]:
    """Take the sum of a part and its modulated LayerNorm, with which a block begins."""
    if part.branch is None:
        return part.x, layer_norm_modulate(ops, part.x, shift, scale)
    return gate_residual_layer_norm_modulate(ops, *part[:3], shift, scale)


def add_norm_joint(stream: Stream, shift: Vector, scale: Vector, ops: Ops) -> tuple[Tensor, ...]:
    """Do `add_norm` on all rows, into joint tensors."""
    if stream[0].branch is None:
        stream = (PendingSum(materialise(stream, ops)),)
    if len(stream) == 1:
        return add_norm(stream[0], shift, scale, ops)
    joint = _joint_buffer(stream, ops), _joint_buffer(stream, ops)
    rows = zip(*(_rows(stream, each) for each in joint), strict=True)
    vectors = (shift, scale), (of_text(shift), of_text(scale))
    entered = [
        gate_residual_layer_norm_modulate(ops, *part[:3], *each, out=out)
        for part, each, out in zip(stream, vectors, rows, strict=True)
    ]
    x, normed = (
        ops.join_tokens(*parts, out=out)
        for parts, out in zip(zip(*entered, strict=True), joint, strict=True)
    )
    return x, normed


def _sum(part: PendingSum, ops: Ops, out: Tensor | None) -> Tensor:
    if part.branch is None:
        return part.x
    if out is None and part.spare and not torch.is_grad_enabled():
        out = part.x
    return gate_residual(ops, *part[:3], out=out)


def _joint_buffer(stream: Stream, ops: Ops) -> Tensor | None:
    x = stream[0].x
    return ops.buffer(x, (x.shape[0], sum(part.x.shape[1] for part in stream), x.shape[2]))


def _rows(stream: Stream, joint: Tensor | None) -> tuple[Tensor | None, ...]:
    """Views of a joint buffer, one per part."""
    if joint is None:
        return tuple(None for _ in stream)
    return joint.split([part.x.shape[1] for part in stream], dim=1)
