"""The one operand that ops take for a linear, whatever its weight is encoded in.

The kernels below take a weight and a bias, in the tokens' dtype. An operand that has them says so
by `dense`; for one that has not (its product is of FP8 values, or has a low-rank term beside it)
the op falls back on the operand's own product. Knows no encoding, and no model.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantized import Quantized

Input = Tensor | Quantized
"""Rows `[B, S, K]`, as an op gives them or, to operands that take FP8, quantized."""


class Operand(Protocol):
    """`out_features` rows of a linear, whose inputs are K wide."""

    out_features: int
    bias: Tensor
    takes_fp8: bool

    def dense(self) -> tuple[Tensor, Tensor] | None:
        """Weight `[N, K]` and bias `[N]` in the tokens' dtype; None where there are none such."""

    def into(self, x: Input, out: Tensor | None) -> Tensor:
        """The product; `out`: preferred destination, may be ignored."""

    def __call__(self, x: Input) -> Tensor:
        """`weight·x + bias`: `[..., K]` -> `[..., N]`."""


class OperandOps:
    """The ops of one row of implementations that have weights, over operands.

    `kernels` is `reference`, `fused` or another module with their names; `kernels/reference.py`
    documents what each op computes.
    """

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels = kernels

    def layer_norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return self._kernels.layer_norm(x, norm.weight, norm.bias)

    def join_tokens(self, *parts: Input, out: Input | None = None) -> Input:
        join = self._kernels.join_tokens
        if isinstance(parts[0], Tensor):
            return join(*parts, out=out)
        outs = (None, None) if out is None else out
        pairs = zip(zip(*parts, strict=True), outs, strict=True)
        return Quantized(*(join(*of_all, out=each) for of_all, each in pairs))

    def joint_linear(self, img: Input, txt: Input, of_img: Operand, of_txt: Operand) -> Tensor:
        img_dense, txt_dense = of_img.dense(), of_txt.dense()
        if img_dense is None or txt_dense is None:
            return self._joined((img, txt), (of_img, of_txt))
        return self._kernels.joint_linear(img, txt, *img_dense, *txt_dense)

    def _joined(self, rows: Sequence[Input], operands: Sequence[Operand]) -> Tensor:
        """The products of some rows after another; into one tensor where ops have one."""
        sizes = [each.shape[1] for each in rows]
        shape = (rows[0].shape[0], sum(sizes), operands[0].out_features)
        joint = self._kernels.buffer(operands[0].bias, shape)
        outs = (None,) * len(sizes) if joint is None else joint.split(sizes, dim=1)
        parts = [each.into(x, out) for x, each, out in zip(rows, operands, outs, strict=True)]
        for part, out in zip(parts, outs, strict=True):
            if out is not None and part is not out:
                out.copy_(part)
        return self._kernels.join_tokens(*parts, out=joint)

    def linear_gelu(self, x: Input, linear: Operand, quantize: bool = False) -> Input:
        if quantize:
            return self._kernels.quantize_joint(linear(x), gelu=True)
        dense = linear.dense()
        if dense is None:
            return F.gelu(linear(x), approximate="tanh")
        return self._kernels.linear_gelu(x, *dense)

    def pair_linear(
        self,
        first: Tensor,
        second: Sequence[Tensor],
        linear: Operand,
        out: Tensor | None = None,
        gelu: bool = False,
    ) -> Tensor:
        """`second` comes in pieces of rows, one or more, that together are as many as `first`'s.

        `out`: preferred destination, may be ignored. `gelu`: of `second`, that of an operand that
        takes FP8, GELU is still to be taken.
        """
        if linear.takes_fp8:
            return self._quantized_pair(first, second, linear, out, gelu)
        dense = linear.dense()
        if dense is None:
            return linear(torch.cat([first, torch.cat([*second], dim=1)], dim=-1))
        if len(second) == 1:
            return self._kernels.pair_linear(first, second[0], *dense, out=out)
        sizes = [piece.shape[1] for piece in second]
        joint = out
        if joint is None:
            joint = self._kernels.buffer(first, (*first.shape[:2], linear.out_features))
        outs = (None,) * len(sizes) if joint is None else joint.split(sizes, dim=1)
        parts = [
            self._kernels.pair_linear(*halves, *dense, out=out)
            for *halves, out in zip(first.split(sizes, dim=1), second, outs, strict=True)
        ]
        return self._kernels.join_tokens(*parts, out=joint)

    def _quantized_pair(
        self,
        first: Tensor,
        second: Sequence[Tensor],
        linear: Operand,
        out: Tensor | None,
        gelu: bool,
    ) -> Tensor:
        """One product of rows `[first, second]`, in pieces of rows where `second` comes in some."""
        firsts = first.split([piece.shape[1] for piece in second], dim=1)
        rows = [
            self._kernels.quantize_joint(*pair, gelu=gelu)
            for pair in zip(firsts, second, strict=True)
        ]
        if len(rows) == 1:
            return linear.into(rows[0], out)
        return self._joined(rows, (linear,) * len(rows))

    def fuse_cached(self, current: Tensor, cached: Tensor, linear: Operand) -> Tensor:
        if linear.takes_fp8:
            return F.silu(self._quantized_pair(current, [cached], linear, None, False))
        dense = linear.dense()
        if dense is None:
            return F.silu(linear(torch.cat([current, cached], dim=-1)))
        return self._kernels.fuse_cached(current, cached, *dense)

    def head(self, x: Tensor, shift: Tensor, scale: Tensor, linear: Operand) -> Tensor:
        dense = linear.dense()
        if dense is None:
            return linear(self._kernels.layer_norm_modulate(x, shift, scale))
        return self._kernels.head(x, shift, scale, *dense)
