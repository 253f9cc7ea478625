"""The residual stream between blocks: tokens to which branches are still to be added.

A block ends with x + gate·branch, and the next begins by normalising that. Handing on the tensors
instead of the sum lets one op do both, whatever block comes next; and where whole blocks are
replaced by what a cache kept, one op adds the branches of several. Knows ops, no weights.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from torch import Tensor

from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import Vector, of_text
from .row_groups import (
    gate_residual,
    gate_residual_layer_norm_modulate,
    gated_sum,
    layer_norm_modulate,
    normed_buffer,
)

Term = tuple[Tensor, Vector]
"""A tensor `[B, S_i, C]` to be added to the rows, and its gate."""


class Branch(NamedTuple):
    """A branch before its gate, and the gate; None for the halves of a single-stream block.

    `more` are further terms, of a forecast. Of one that `stays` all tensors outlast the step, so
    that they can be added late: no memory is held for it.
    """

    value: Tensor
    gate: Vector | None
    more: tuple[Term, ...] = ()
    stays: bool = False


class PendingSum(NamedTuple):
    """Rows `x [B, S_i, C]`, to which `gate` · `branch` is yet to be added, if there is one.

    After it those of all terms `more`, which stay. With image and text apart, either both have a
    branch or none has.
    """

    x: Tensor
    branch: Tensor | None = None
    gate: Vector | None = None
    more: tuple[Term, ...] = ()

    def plus(self, branch: Branch, ops: Ops) -> "PendingSum":
        """The same and one branch more; the sum so far is taken if that one does not stay."""
        if self.branch is None:
            return PendingSum(self.x, *branch[:3])
        if not branch.stays:
            return PendingSum(_sum(self, ops, None), *branch[:3])
        return self._replace(more=(*self.more, branch[:2], *branch.more))


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


def add_norm(
    part: PendingSum, shift: Vector, scale: Vector, ops: Ops, quantize: bool = False
) -> tuple[Tensor, Input]:
    """Take the sum of a part and its modulated LayerNorm, with which a block begins.

    The norm is quantized where it is so wanted.
    """
    if part.branch is None or part.more:
        x = _sum(part, ops, None)
        return x, layer_norm_modulate(ops, x, shift, scale, quantize=quantize)
    return gate_residual_layer_norm_modulate(ops, *part[:3], shift, scale, quantize=quantize)


def add_norm_joint(
    stream: Stream, shift: Vector, scale: Vector, ops: Ops, quantize: bool = False
) -> tuple[Tensor, Input]:
    """Do `add_norm` on all rows, into joint tensors."""
    if len(stream) == 1:
        return add_norm(stream[0], shift, scale, ops, quantize)
    if stream[0].branch is None or any(part.more for part in stream):
        return add_norm(PendingSum(materialise(stream, ops)), shift, scale, ops, quantize)
    shape = _joint_shape(stream)
    joint = _joint_buffer(stream, ops), normed_buffer(ops, stream[0].x, shape, quantize)
    rows = zip(*(_rows(stream, each) for each in joint), strict=True)
    vectors = (shift, scale), (of_text(shift), of_text(scale))
    entered = [
        gate_residual_layer_norm_modulate(ops, *part[:3], *each, out=out, quantize=quantize)
        for part, each, out in zip(stream, vectors, rows, strict=True)
    ]
    x, normed = (
        ops.join_tokens(*parts, out=out)
        for parts, out in zip(zip(*entered, strict=True), joint, strict=True)
    )
    return x, normed


class Entered:
    """Rows at the start of a branch: their sum, and its norm where any branch reads that.

    One op takes both (`add_norm`); where nothing reads the norm the sum is left to what follows.
    """

    def __init__(
        self, stream: Stream, add_norm: Callable[[], tuple[Tensor, Input]], ops: Ops
    ) -> None:
        self._stream, self._add_norm, self._ops = stream, add_norm, ops
        self._normed: Input | None = None

    def normed(self) -> Input:
        if self._normed is None:
            x, self._normed = self._add_norm()
            self._stream = (PendingSum(x),)
        return self._normed

    def sum(self) -> Tensor:
        return self._as_one().x

    def plus(self, branch: Branch) -> PendingSum:
        """The rows, and a branch more to be added to them."""
        part = self._stream[0] if len(self._stream) == 1 else self._as_one()
        return part.plus(branch, self._ops)

    def _as_one(self) -> PendingSum:
        """The sum, of all rows, with nothing more to be added."""
        self._stream = (PendingSum(materialise(self._stream, self._ops)),)
        return self._stream[0]


def _sum(part: PendingSum, ops: Ops, out: Tensor | None) -> Tensor:
    if part.branch is None:
        return part.x
    if not part.more:
        return gate_residual(ops, *part[:3], out=out)
    return gated_sum(ops, *part[:3], *chain.from_iterable(part.more), out=out)


def _joint_buffer(stream: Stream, ops: Ops) -> Tensor | None:
    return ops.buffer(stream[0].x, _joint_shape(stream))


def _joint_shape(stream: Stream) -> tuple[int, ...]:
    x = stream[0].x
    return x.shape[0], sum(part.x.shape[1] for part in stream), x.shape[2]


def _rows(stream: Stream, joint: Input | None) -> Sequence[Input | None]:
    """Views of a joint buffer, one per part."""
    if joint is None:
        return tuple(None for _ in stream)
    return joint.tensor_split(list(accumulate(part.x.shape[1] for part in stream))[:-1], dim=1)
