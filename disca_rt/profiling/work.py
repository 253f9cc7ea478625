"""How much work one call is: floating-point operations and the fewest bytes it can move.

By the shapes of its arguments. Knows the ops' signatures and the names of PyTorch's products,
nothing about clocks.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from ..kernels.operand import Operand


class Work(NamedTuple):
    """`flops` are those of matrix products, as everywhere in this project.

    `minimum_bytes`: inputs once and outputs once. `pointwise` counts the other operations, as the
    reference writes them; they only give an op without products its place on a roofline.
    """

    flops: int = 0
    minimum_bytes: int = 0
    pointwise: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def intensity(self) -> float | None:
        """Operations per byte; None where either is not known."""
        operations = self.flops or self.pointwise
        return operations / self.minimum_bytes if operations and self.minimum_bytes else None


def _bytes(*tensors: Tensor | None) -> int:
    return sum(each.numel() * each.element_size() for each in tensors if each is not None)


def _passes(x: Tensor, count: int, operations: int) -> Work:
    """`count` reads or writes of `x`, and so many operations on each of its values."""
    return Work(0, count * _bytes(x), operations * x.numel())


def _rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor, *packing: Any
) -> Work:
    return _passes(x, 2, 7) + Work(0, _bytes(cos, sin))


def _linear_gelu(x: Tensor, linear: Operand) -> Work:
    """GELU in place; of the product its GEMM tells."""
    values = x.numel() // x.shape[-1] * linear.out_features
    return Work(0, 2 * values * x.element_size(), 10 * values)


def _fuse_cached(current: Tensor, cached: Tensor, linear: Operand) -> Work:
    """SiLU in place; of the products their GEMMs tell."""
    return _passes(current, 2, 4)


def _head(x: Tensor, shift: Tensor, scale: Tensor, linear: Operand) -> Work:
    rows, columns = x.numel() // x.shape[-1], linear.out_features
    moved = _bytes(x) + rows * columns * x.element_size()
    return Work(2 * x.numel() * columns, moved, 8 * x.numel())


def _euler_step(
    latents: Tensor, patches: Tensor, uncond: Tensor | None, *scalars_and_sizes: Any
) -> Work:
    operations = (2 if uncond is None else 5) * latents.numel()
    return Work(0, 2 * _bytes(latents) + _bytes(patches, uncond), operations)


def _finite_differences(factors: Tensor, newest: Tensor, distance: float, known: int) -> Work:
    return _passes(newest, 2 * known, 2 * (known - 1))


def _forecast(factors: Tensor, coefficients: Sequence[float]) -> Work:
    count = len(coefficients)
    return _passes(factors[0], count + 1, 2 * count - 1)


def _join_tokens(img: Tensor, txt: Tensor) -> Work:
    return Work(0, 2 * _bytes(img, txt))


def attention_work(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Work:
    """Both products over `[B, S, H, D]`. Padding counts as valid: its length is on the device."""
    return Work(4 * q.numel() * k.shape[1], 2 * _bytes(q) + _bytes(k, v))


OPS: dict[str, Callable[..., Work]] = {
    "join_tokens": _join_tokens,
    "joint_linear": lambda *args: Work(),
    "layer_norm": lambda x, *weights: _passes(x, 2, 8),
    "layer_norm_modulate": lambda x, *vectors: _passes(x, 2, 8),
    "gate_residual": lambda x, *others: _passes(x, 3, 2),
    "gate_residual_layer_norm_modulate": lambda x, *others: _passes(x, 4, 10),
    "rms_norm_rope": _rms_norm_rope,
    "rms_norm_rope_send": _rms_norm_rope,
    "linear_gelu": _linear_gelu,
    "pair_linear": lambda *args: Work(),
    "fuse_cached": _fuse_cached,
    "head": _head,
    "unpatchify": lambda x, *sizes: _passes(x, 2, 0),
    "euler_step": _euler_step,
    "relative_l1": lambda x, reference: _passes(x, 2, 3),
    "finite_differences": _finite_differences,
    "forecast": _forecast,
}
"""The work of one call of each op that does some, by the op's arguments without `out=`.

Of an op around a product: what it does beside the product.
"""


class _Operands(NamedTuple):
    """Which arguments are the rows `[..., K]` and the matrix, `[..., K, N]` or `[N, K]`."""

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


def operator_work(name: str, shapes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> Work:
    """Of one of PyTorch's operators, by its arguments as a trace has them.

    Products and copies; nothing is known of others.
    """
    if name == COPY:
        return Work(0, 2 * prod(shapes[0]) * ITEM_SIZES.get(dtypes[0], 4))
    if name not in GEMMS:
        return Work()
    operands = GEMMS[name]
    rows, matrix = shapes[operands.rows], shapes[operands.matrix]
    columns = matrix[-2] if operands.is_transposed else matrix[-1]
    values = prod(rows) + prod(matrix) + prod(rows[:-1]) * columns
    return Work(2 * prod(rows) * columns, values * ITEM_SIZES.get(dtypes[operands.rows], 4))
