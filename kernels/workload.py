"""Calls of every fused op at the shapes of the real models: what is tuned, timed and compiled.

Knows shapes and the fewest bytes an op can move, nothing about clocks or compilers.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .launch import SPAN
from .packing import Packing, packing


class Shapes(NamedTuple):
    """One rank's share of one sample: tokens of image and text, widths, latents `channels`."""

    name: str
    img: int
    txt: int
    hidden: int
    heads: int
    channels: int
    grid: tuple[int, int, int]
    patch: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return self.img + self.txt


def shard(shapes: Shapes, ranks: int) -> Shapes:
    """The largest share of `shapes` over `ranks`; latents are not sharded."""
    img, txt = -(-shapes.img // ranks), -(-shapes.txt // ranks)
    return shapes._replace(name=f"{shapes.name}, {ranks} ranks", img=img, txt=txt)


REAL = {
    shapes.name: shapes
    for shapes in (
        Shapes("1.0 704x704x129", 63_888, 256, 3072, 24, 16, (33, 44, 44), (1, 2, 2)),
        Shapes("1.0 1280x720x129", 118_800, 256, 3072, 24, 16, (33, 45, 80), (1, 2, 2)),
        Shapes("1.5 848x480x121", 49_290, 1_000, 2048, 16, 32, (31, 30, 53), (1, 1, 1)),
    )
}

SENT_TO = 8  # ranks that `rms_norm_rope_send` packs for
SMALL = Shapes("small", 15, 3, 128, 8, 16, (1, 3, 5), (1, 2, 2))
"""For trials in Triton's interpreter."""


class Make(Protocol):
    """Makes the tensors of a call: random ones on a device, or empty ones on the meta device."""

    def __call__(self, *shape: int, dtype: torch.dtype = ...) -> Tensor: ...


class Call(NamedTuple):
    """`op` on `args`; see `implementation`.

    `width` is what its launch configuration goes by, `minimum_bytes` what it must move at least (0
    where that is not what limits it).
    """

    op: str
    width: int
    args: tuple[Any, ...]
    minimum_bytes: int


def calls(
    s: Shapes, make: Make, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Callable[[], Call]]:
    """By op: a function that makes its call, so that one call's tensors live at a time."""
    size = dtype.itemsize
    rows = s.tokens * s.hidden * size  # bytes of a pass over tokens: U in docs/kernels.md
    width, columns = s.hidden // s.heads, s.channels * s.patch[0] * s.patch[1] * s.patch[2]
    latents = s.grid[0] * s.grid[1] * s.grid[2] * columns
    fp32 = torch.float32

    def tokens(factor: int = 1) -> Tensor:
        return make(1, s.tokens, factor * s.hidden, dtype=dtype)

    def vectors(count: int) -> tuple[Tensor, ...]:
        return make(1, 6 * s.hidden, dtype=dtype).chunk(6, dim=-1)[:count]

    def rope() -> tuple[Tensor, ...]:
        x = make(1, s.tokens, s.heads, width, dtype=dtype)
        norms = make(width, dtype=dtype), make(width, dtype=dtype)
        tables = make(s.img, width // 2, dtype=fp32), make(s.img, width // 2, dtype=fp32)
        return (x, *norms, *tables)

    def linear(fan_in: int, fan_out: int = s.hidden) -> tuple[Tensor, Tensor]:
        return make(fan_out, fan_in, dtype=dtype), make(fan_out, dtype=dtype)

    def head() -> tuple[Tensor, ...]:
        x = tokens()[:, : s.img]
        weights = make(columns, s.hidden, dtype=dtype), make(columns, dtype=dtype)
        return (x, *vectors(2), *weights)

    def euler() -> tuple[Any, ...]:
        sides = [g * p for g, p in zip(s.grid, s.patch, strict=True)]
        whole = s.grid[0] * s.grid[1] * s.grid[2]
        patches = (make(1, whole, columns, dtype=dtype) for _ in range(2))
        dt = make(1, dtype=fp32).reshape(())
        return (make(1, s.channels, *sides, dtype=fp32), *patches, 6.0, dt, s.grid, s.patch)

    def refiner() -> tuple[Tensor, ...]:
        x = tokens()[:, : s.txt]
        return (x, make(s.hidden, dtype=dtype), make(s.hidden, dtype=dtype))

    tables = 2 * s.img * width // 2 * 4
    made: dict[str, tuple[int, Callable[[], tuple[Any, ...]], int]] = {
        "layer_norm": (s.hidden, refiner, 2 * s.txt * s.hidden * size),
        "layer_norm_modulate": (s.hidden, lambda: (tokens(), *vectors(2)), 2 * rows),
        "gate_residual": (s.hidden, lambda: (tokens(), tokens(), *vectors(1)), 3 * rows),
        "gate_residual_layer_norm_modulate": (
            s.hidden,
            lambda: (tokens(), tokens(), *vectors(3)),
            4 * rows,
        ),
        "rms_norm_rope": (s.hidden, rope, 2 * rows + tables),
        "rms_norm_rope_send": (
            s.hidden,
            lambda: (*rope(), even_packing(s.heads, make)),
            2 * rows + tables,
        ),
        "gelu_tanh": (SPAN, lambda: (tokens(4),), 8 * rows),
        "linear_gelu": (
            4 * s.hidden,
            lambda: (tokens(), *linear(s.hidden, 4 * s.hidden)),
            0,
        ),
        "joint_linear": (
            s.hidden,
            lambda: (
                tokens()[:, : s.img],
                tokens()[:, s.img :],
                *linear(s.hidden),
                *linear(s.hidden),
            ),
            0,
        ),
        "pair_linear": (5 * s.hidden, lambda: (tokens(), tokens(4), *linear(5 * s.hidden)), 0),
        "fuse_cached": (2 * s.hidden, lambda: (tokens(), tokens(), *linear(2 * s.hidden)), 0),
        "head": (s.hidden, head, s.img * (s.hidden + columns) * size),
        "euler_step": (SPAN, euler, latents * (4 + 4 + 2 * size)),
        "relative_l1": (SPAN, lambda: (tokens(), tokens()), 2 * rows),
        "finite_differences": (
            SPAN,
            lambda: (make(3, 1, s.tokens, s.hidden, dtype=dtype), tokens(), make(2, dtype=fp32)),
            6 * rows,
        ),
        "forecast": (
            SPAN,
            lambda: (make(3, 1, s.tokens, s.hidden, dtype=dtype), make(3, dtype=fp32)),
            4 * rows,
        ),
    }
    return {
        op: lambda op=op, width=width, arguments=arguments, least=least: Call(
            op, width, arguments(), least
        )
        for op, (width, arguments, least) in made.items()
    }


def implementation(op: str) -> Callable[..., Any]:
    """The fused op called `op`: of the row, or one below it that works in place."""
    below = {"gelu_tanh": "gelu_tanh_"}
    module = import_module(f".{op if op in below else 'fused'}", __package__)
    return getattr(module, below.get(op, op))


def even_packing(heads: int, make: Make) -> Packing:
    """Of heads that divide evenly."""
    return packing([heads // SENT_TO] * SENT_TO, make(1, dtype=torch.float32).device)
