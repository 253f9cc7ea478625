"""The table of ops: arguments at real shapes, the work of a call, and the launches to choose from.

The kernels' own tests, `disca-rt tune`, the benchmarks, the compile gate and the profiler read it.
Knows no kernel: it can be read where there is no Triton.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .key_blocks import KeyBlocks
from .work import Work, nothing, passes, tensor_bytes
from .workload import Arguments, Make, Shapes

SPAN = 1024  # elements that an op on flat memory takes for a row
MIN_DOT = 16  # rows and columns of a matrix product, at least
FP32_BYTES = 4
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
WIDE_ROWS_ONCE = Launches(lambda shapes: 4 * shapes.hidden, columns=4096)
FLAT = Launches(lambda shapes: SPAN)
HEAD = Launches(lambda shapes: shapes.hidden, columns=HEAD_COLUMNS, least_rows=MIN_DOT)
GELU = Launches(lambda shapes: 4 * shapes.hidden, variants=("epilogue", "in place"))
SPARSE = Launches(
    lambda shapes: shapes.hidden // shapes.heads,
    variants=("128x64", "128x128", "128x64, 4 warps", "64x64", "64x128"),
)


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


def _quantized(reads: int, operations: int) -> Callable[..., Work]:
    """Work of `reads` of the first argument, and of writing its rows in e4m3, each with a scale."""

    def work(x: Tensor, *others: Any) -> Work:
        scales = FP32_BYTES * x.numel() // x.shape[-1]
        return passes(reads, operations)(x) + Work(0, x.numel() + scales)

    return work


def _joint_work(*parts: Tensor) -> Work:
    scales = FP32_BYTES * parts[0].numel() // parts[0].shape[-1]
    values = sum(each.numel() for each in parts)
    return Work(0, tensor_bytes(*parts) + values + scales, 2 * values)


def _rope_quantized_work(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, cos: Tensor, sin: Tensor, scale: Tensor
) -> Work:
    return passes(1, 8)(x) + Work(0, x.numel() + tensor_bytes(cos, sin))


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


def _sparse_work(q: Tensor, k: Tensor, v: Tensor, plan: KeyBlocks, *more: Any) -> Work:
    """Products of all pairs of the plan, as if each block of queries had as many key blocks."""
    queries, columns = plan.queries.numel(), plan.blocks.shape[3] * plan.keys.shape[3]
    return Work(
        4 * q.shape[0] * q.shape[2] * q.shape[3] * queries * columns, tensor_bytes(q, k, v, q)
    )


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
    "layer_norm_modulate_quantize": OpRow(
        _quantized(1, 10), lambda a: (a.tokens(), *a.vectors(2)), TOKEN_ROWS
    ),
    "gate_residual_layer_norm_modulate_quantize": OpRow(
        _quantized(3, 12), lambda a: (a.tokens(), a.tokens(), *a.vectors(3)), TOKEN_ROWS
    ),
    "rms_norm_rope_quantize": OpRow(
        _rope_quantized_work, lambda a: (*a.rope(), a.numbers(1)), TOKEN_ROWS
    ),
    "quantize_joint": OpRow(_joint_work, lambda a: (a.tokens(), a.tokens(4)), WIDE_ROWS_ONCE),
    "quantize_heads": OpRow(
        lambda x, scale: passes(1, 1)(x) + Work(0, x.numel()), Arguments.heads, TOKEN_ROWS
    ),
    # After the first values of a sample it looks at scales alone.
    "scale_heads": OpRow(lambda x, scale: Work(0, 2 * tensor_bytes(scale)), Arguments.heads),
    "scaled_linear": OpRow(nothing),
    "block_sparse_attention": OpRow(_sparse_work, Arguments.sparse_attention, SPARSE),
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
