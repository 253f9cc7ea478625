"""Work of one call: floating-point operations and the fewest bytes that it can move.

Follows from the shapes of its arguments. Knows the ops' signatures and the names of PyTorch's
products, no clocks.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor

from ..kernels.op_table import OP_ROWS
from ..kernels.work import Work, tensor_bytes


def attention_work(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Work:
    """Work of attention over `[B, S, H, D]`; padding counts, as its length is on the device."""
    return Work(4 * q.numel() * k.shape[1], 2 * tensor_bytes(q) + tensor_bytes(k, v))


OPS: dict[str, Callable[..., Work]] = {name: row.work for name, row in OP_ROWS.items()}
"""Functions from an op's arguments, without `out=`, to its work beside GEMMs of its own."""


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
CONVOLUTIONS = "aten::conv2d", "aten::conv3d"
COPY = "aten::copy_"
ITEM_SIZES = {
    "c10::complex<double>": 16,
    "double": 8,
    "float": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "c10::Float8_e4m3fn": 1,
}


def operator_work(
    name: str,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[str],
    values: Sequence[str] = (),
) -> Work:
    """Work of one of PyTorch's operators, by its arguments as a trace has them.

    Known for products, convolutions and copies, none for others.
    """
    if name in CONVOLUTIONS:
        return _convolution_work(shapes, dtypes, values)
    if name == COPY:
        return Work(0, 2 * prod(shapes[0]) * ITEM_SIZES.get(dtypes[0], 4))
    if name not in GEMMS:
        return Work()
    operands = GEMMS[name]
    rows, matrix = shapes[operands.rows], shapes[operands.matrix]
    columns = matrix[-2] if operands.is_transposed else matrix[-1]
    values = prod(rows) + prod(matrix) + prod(rows[:-1]) * columns
    return Work(2 * prod(rows) * columns, values * ITEM_SIZES.get(dtypes[operands.rows], 4))


def _convolution_work(
    shapes: Sequence[Sequence[int]], dtypes: Sequence[str], values: Sequence[str]
) -> Work:
    """Work of input [B, C, ...], weight [N, C / groups, ...]; none where strides are not told."""
    given, weight = shapes[:2]
    if len(values) < 6 or not all(values[3:6]):  # padding may be a word
        return Work()
    strides, padding, dilation = (_numbers(text, len(given) - 2) for text in values[3:6])
    axes = zip(given[2:], weight[2:], strides, padding, dilation, strict=True)
    sides = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
    made = given[0] * weight[0] * prod(sides)
    size = ITEM_SIZES.get(dtypes[0], 4)
    return Work(2 * made * prod(weight[1:]), (prod(given) + prod(weight) + made) * size)


def _numbers(text: str, count: int) -> list[int]:
    """Numbers of "[1, 1, 1]"; one number stands for all of them."""
    numbers = [int(number) for number in text.strip("[]").split(",") if number.strip()]
    return numbers * count if len(numbers) == 1 else numbers
