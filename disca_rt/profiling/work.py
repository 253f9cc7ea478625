"""Work of one call: floating-point operations and the fewest bytes that it can move.

Follows from the shapes of its arguments. Knows the ops' signatures and the names of PyTorch's
products, no clocks.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor


class OperatorWork(NamedTuple):
    """Work of one call of an op or operator; `flops` are those of matrix products alone.

    `minimum_bytes`: inputs once and outputs once. `pointwise` counts the other operations, as the
    reference writes them; they only give an op without products its place on a roofline.
    """

    flops: int = 0
    minimum_bytes: int = 0
    pointwise: int = 0

    def __add__(self, other: "OperatorWork") -> "OperatorWork":
        return OperatorWork(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def intensity(self) -> float | None:
        """Operations per byte; None where one of them is not known."""
        operations = self.flops or self.pointwise
        return operations / self.minimum_bytes if operations and self.minimum_bytes else None


def _bytes(*tensors: Tensor | None) -> int:
    return sum(each.numel() * each.element_size() for each in tensors if each is not None)


def _passes(x: Tensor, count: int, operations: int) -> OperatorWork:
    """Work that reads or writes `x` `count` times, with so many operations on each value."""
    return OperatorWork(0, count * _bytes(x), operations * x.numel())


def _rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor, *packing: Any
) -> OperatorWork:
    return _passes(x, 2, 7) + OperatorWork(0, _bytes(cos, sin))


def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> OperatorWork:
    """Work of GELU in place; the matrix product counts as a GEMM of its own."""
    values = x.numel() // x.shape[-1] * len(weight)
    return OperatorWork(0, 2 * values * x.element_size(), 10 * values)


def _fuse_cached(current: Tensor, cached: Tensor, weight: Tensor, bias: Tensor) -> OperatorWork:
    """Work of SiLU in place; the matrix products count as GEMMs of their own."""
    return _passes(current, 2, 4)


def _head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> OperatorWork:
    rows, columns = x.numel() // x.shape[-1], len(weight)
    moved = _bytes(x) + rows * columns * x.element_size()
    return OperatorWork(2 * x.numel() * columns, moved, 8 * x.numel())


def _euler_step(
    latents: Tensor, patches: Tensor, uncond: Tensor | None, *scalars_and_sizes: Any
) -> OperatorWork:
    operations = (2 if uncond is None else 5) * latents.numel()
    return OperatorWork(0, 2 * _bytes(latents) + _bytes(patches, uncond), operations)


def _finite_differences(
    factors: Tensor, newest: Tensor, distance: float, known: int
) -> OperatorWork:
    return _passes(newest, 2 * known, 2 * (known - 1))


def _forecast(factors: Tensor, coefficients: Sequence[float]) -> OperatorWork:
    count = len(coefficients)
    return _passes(factors[0], count + 1, 2 * count - 1)


def _join_tokens(img: Tensor, txt: Tensor) -> OperatorWork:
    return OperatorWork(0, 2 * _bytes(img, txt))


def attention_work(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> OperatorWork:
    """Work of attention over `[B, S, H, D]`; padding counts, as its length is on the device."""
    return OperatorWork(4 * q.numel() * k.shape[1], 2 * _bytes(q) + _bytes(k, v))


OPS: dict[str, Callable[..., OperatorWork]] = {
    "join_tokens": _join_tokens,
    "joint_linear": lambda *args: OperatorWork(),
    "layer_norm": lambda x, *weights: _passes(x, 2, 8),
    "layer_norm_modulate": lambda x, *vectors: _passes(x, 2, 8),
    "gate_residual": lambda x, *others: _passes(x, 3, 2),
    "gate_residual_layer_norm_modulate": lambda x, *others: _passes(x, 4, 10),
    "rms_norm_rope": _rms_norm_rope,
    "rms_norm_rope_send": _rms_norm_rope,
    "linear_gelu": _linear_gelu,
    "pair_linear": lambda *args: OperatorWork(),
    "fuse_cached": _fuse_cached,
    "head": _head,
    "unpatchify": lambda x, *sizes: _passes(x, 2, 0),
    "euler_step": _euler_step,
    "relative_l1": lambda x, reference: _passes(x, 2, 3),
    "finite_differences": _finite_differences,
    "forecast": _forecast,
}
"""Functions from an op's arguments, without `out=`, to its work; beside the product, if it has one.
"""


class _Operands(NamedTuple):
    """Positions of two arguments: rows [..., K], and a matrix [..., K, N] or [N, K]."""

    rows: int
    matrix: int
    is_transposed: bool = False


GEMMS: dict[str, _Operands] = {
    "aten::linear": _Operands(0, 1, is_transposed=True),
    "aten::matmul": _Operands(0, 1),
    "aten::mm": _Operands(0, 1),
    "aten::bmm": _Operands(0, 1),
    "aten::_scaled_mm": _Operands(0, 1),
    "aten::addmm": _Operands(1, 2),
    "aten::addmm_": _Operands(1, 2),
    "aten::_addmm_activation": _Operands(1, 2),
    "aten::baddbmm": _Operands(1, 2),
}
COPY = "aten::copy_"
ITEM_SIZES = {
    "double": 8,
    "float": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "c10::Float8_e4m3fn": 1,
}


def operator_work(
    name: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[str]
) -> OperatorWork:
    """Work of one of PyTorch's operators, by its arguments as a trace has them.

    Known for products and copies, none for others.
    """
    if name == COPY:
        return OperatorWork(0, 2 * prod(shapes[0]) * ITEM_SIZES.get(dtypes[0], 4))
    if name not in GEMMS:
        return OperatorWork()
    operands = GEMMS[name]
    rows, matrix = shapes[operands.rows], shapes[operands.matrix]
    columns = matrix[-2] if operands.is_transposed else matrix[-1]
    values = prod(rows) + prod(matrix) + prod(rows[:-1]) * columns
    return OperatorWork(2 * prod(rows) * columns, values * ITEM_SIZES.get(dtypes[operands.rows], 4))
