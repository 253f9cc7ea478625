"""The table of ops: arguments at real shapes, the work of a call, and the launches to choose from.

The kernels' own tests, `disca-rt tune`, the benchmarks, the compile gate and the profiler read it.
Knows no kernel: it can be read where there is no Triton.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .work import Work, nothing, passes, tensor_bytes
from .workload import Arguments, Make, Shapes

SPAN = 1024  # elements that an op on flat memory takes for a row
MIN_DOT = 16  # rows and columns of a matrix product, at least
HEAD_COLUMNS = 64  # of 16-bit tokens at a time; fp32 has no room for more than a quarter


class Launches(NamedTuple):
    """The launches to choose from, one for each `width` in the launch table.

    They differ in `rows` (from `least_rows`) and warps of a program whose rows have `columns` at a
    time (None: `width`, up to a power of two) and in `turns`, or are `variants` by name.
    """

    width: Callable[[Shapes], int]
    columns: int | None = None
    least_rows: int = 1
    turns: tuple[int, ...] = (1,)
    variants: tuple[str, ...] = ()


TOKEN_ROWS = Launches(lambda shapes: shapes.hidden, turns=(1, 4, 8, 16))
TOKEN_ROWS_ONCE = Launches(lambda shapes: shapes.hidden)  # no vector is kept from turn to turn
FLAT = Launches(lambda shapes: SPAN)
HEAD = Launches(lambda shapes: shapes.hidden, columns=HEAD_COLUMNS, least_rows=MIN_DOT)
GELU = Launches(lambda shapes: 4 * shapes.hidden, variants=("epilogue", "in place"))


class OpRow(NamedTuple):
    """One op of the table.

    `work` counts what a call with these arguments, without `out=`, does beside products: those are
    the library's GEMMs and counted as such. `arguments` makes a call's; None where the op has no
    kernel. `launches` is None where there is none to choose.
    """

    work: Callable[..., Work]
    arguments: Callable[[Arguments], tuple[Any, ...]] | None = None
    launches: Launches | None = None

    @property
    def is_product(self) -> bool:
        """Tell whether arithmetic limits it, not bytes."""
        return self.launches is None or bool(self.launches.variants)


def _gated_sum_work(x: Tensor, *branches_and_gates: Tensor) -> Work:
    count = len(branches_and_gates) // 2
    return passes(count + 2, 2 * count)(x)


def _rope_work(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor, *packing: Any
) -> Work:
    return passes(2, 7)(x) + Work(0, tensor_bytes(cos, sin))


def _rope_pair_work(q: Tensor, k: Tensor, *weights_and_tables: Tensor) -> Work:
    return passes(4, 14)(q) + Work(0, tensor_bytes(*weights_and_tables[-2:]))


def _columns(linear: Sequence[Any]) -> int:
    """Rows of a linear's weight, given as an operand or as weight and bias."""
    return getattr(linear[0], "out_features", None) or len(linear[0])


def _linear_gelu_work(x: Tensor, *linear: Any) -> Work:
    """GELU in place."""
    values = x.numel() // x.shape[-1] * _columns(linear)
    return Work(0, 2 * values * x.element_size(), 10 * values)


def _head_work(x: Tensor, shift: Tensor, scale: Tensor, *linear: Any) -> Work:
    rows, columns = x.numel() // x.shape[-1], _columns(linear)
    moved = tensor_bytes(x) + rows * columns * x.element_size()
    return Work(2 * x.numel() * columns, moved, 8 * x.numel())


def _euler_work(
    latents: Tensor, patches: Tensor, uncond: Tensor | None, *scalars_and_sizes: Any
) -> Work:
    operations = (2 if uncond is None else 5) * latents.numel()
    return Work(0, 2 * tensor_bytes(latents) + tensor_bytes(patches, uncond), operations)


def _differences_work(factors: Tensor, newest: Tensor, numbers: Tensor) -> Work:
    return passes(2 * len(factors), 2 * (len(factors) - 1))(newest)


def _forecast_work(factors: Tensor, coefficients: Tensor) -> Work:
    count = len(factors)
    return passes(count + 1, 2 * count - 1)(factors[0])


def _channels_work(factors: Tensor, coefficients: Tensor) -> Work:
    return _forecast_work(factors, coefficients) + Work(0, tensor_bytes(coefficients))


OP_ROWS: dict[str, OpRow] = {
    "layer_norm": OpRow(passes(2, 8), lambda a: (a.txt(), *a.affine()), TOKEN_ROWS),
    "layer_norm_modulate": OpRow(passes(2, 8), lambda a: (a.tokens(), *a.vectors(2)), TOKEN_ROWS),
    "gate_residual": OpRow(
        passes(3, 2), lambda a: (a.tokens(), a.tokens(), *a.vectors(1)), TOKEN_ROWS
    ),
    "gated_sum": OpRow(_gated_sum_work, lambda a: a.branches(4), TOKEN_ROWS_ONCE),
    "gate_residual_layer_norm_modulate": OpRow(
        passes(4, 10), lambda a: (a.tokens(), a.tokens(), *a.vectors(3)), TOKEN_ROWS
    ),
    "rms_norm_rope": OpRow(_rope_work, Arguments.rope, TOKEN_ROWS),
    "rms_norm_rope_pair": OpRow(_rope_pair_work, Arguments.rope_pair, TOKEN_ROWS),
    "rms_norm_rope_send": OpRow(_rope_work, lambda a: (*a.rope(), a.packing()), TOKEN_ROWS),
    "gelu_tanh": OpRow(passes(2, 10), lambda a: (a.tokens(4),), FLAT),
    "linear_gelu": OpRow(_linear_gelu_work, lambda a: (a.tokens(), *a.linear(1, 4)), GELU),
    "joint_linear": OpRow(nothing, lambda a: (a.img(), a.txt(), *a.linear(1), *a.linear(1))),
    "pair_linear": OpRow(nothing, lambda a: (a.tokens(), a.tokens(4), *a.linear(5))),
    "fuse_cached": OpRow(passes(2, 4), lambda a: (a.tokens(), a.tokens(), *a.linear(2))),
    "head": OpRow(_head_work, lambda a: (a.img(), *a.vectors(2), *a.last_linear()), HEAD),
    "euler_step": OpRow(_euler_work, Arguments.euler, FLAT),
    "finite_differences": OpRow(
        _differences_work, lambda a: (a.factors(), a.tokens(), a.numbers(2)), FLAT
    ),
    "forecast": OpRow(_forecast_work, lambda a: (a.factors(), a.numbers(3)), FLAT),
    "forecast_channels": OpRow(
        _channels_work, lambda a: (a.factors(), a.coefficients(3)), TOKEN_ROWS_ONCE
    ),
    "join_tokens": OpRow(lambda *parts: Work(0, 2 * tensor_bytes(*parts))),
    "unpatchify": OpRow(passes(2, 0)),
}

TUNED = {op: row.launches for op, row in OP_ROWS.items() if row.launches is not None}
"""The launches that `disca-rt tune` chooses from, by op."""


class Call(NamedTuple):
    """`op` on `args`, with which `fused.implementation(op)` is called.

    `width` is what its launch configuration goes by (0: it has none), `minimum_bytes` what it must
    move at least (0 where that is not what limits it).
    """

    op: str
    width: int
    args: tuple[Any, ...]
    minimum_bytes: int


def calls(
    shapes: Shapes, make: Make, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Callable[[], Call]]:
    """Functions that make each op's call, so that one call's tensors live at a time."""
    arguments = Arguments(shapes, make, dtype)
    return {
        op: lambda op=op, row=row: _call(op, row, arguments)
        for op, row in OP_ROWS.items()
        if row.arguments is not None
    }


def _call(op: str, row: OpRow, arguments: Arguments) -> Call:
    args = row.arguments(arguments)
    width = row.launches.width(arguments.shapes) if row.launches else 0
    return Call(op, width, args, 0 if row.is_product else row.work(*args).minimum_bytes)
