"""Launches of kernels, by what the launch table has for (device, op, width).

The table is data, measured by `disca-rt tune`; a device or width it lacks gets a default that is a
formula. Either way a launch depends on shapes alone, so nothing changes under a graph capture.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .launch_table import MODELLED, OPS, Choice, LaunchConfig, read_ops, remembered
from .op_table import OP_ROWS
from .op_table import SPAN as SPAN  # beside `launch_config` in every kernel on flat memory

PART = 1024  # columns of a row at a time: 8, an access of 16 bytes in bf16, for each of 128 threads
TURNS = 8  # tiles that a program takes by default: it reads vectors once for all of them
PROGRAMS = 1024  # of one launch, at least, before a program takes a tile more
FLOATS = torch.float32, torch.bfloat16, torch.float16

_TRIED: ContextVar[Mapping[str, Choice | None]] = ContextVar("_TRIED", default=MappingProxyType({}))


def launch_config(
    op: str, width: int, device: torch.device, default: LaunchConfig | None = None
) -> LaunchConfig:
    """The launch of rows of `width` elements on `device`; `default` where none was measured."""
    choice = _choice(op, width, device)
    return choice if isinstance(choice, LaunchConfig) else default or default_config(width)


def rows_config(op: str, width: int, device: torch.device) -> LaunchConfig:
    """The launch of rows of `width` values; Triton's interpreter has a default of its own."""
    is_interpreted = device.type == "cpu"
    default = interpreted_config(width) if is_interpreted else default_of(op, width)
    return launch_config(op, width, device, default)


def launch_variant(op: str, width: int, device: torch.device, default: str) -> str:
    """The variant that `op` runs as at `width` on `device`; `default` where none was measured."""
    choice = _choice(op, width, device)
    return choice if isinstance(choice, str) else default


def _choice(op: str, width: int, device: torch.device) -> Choice | None:
    tried = _TRIED.get()
    return tried[op] if op in tried else _from_table(op, width, table_name(device))


@contextmanager
def trying(choices: Mapping[str, Choice | None]) -> Iterator[None]:
    """Launch ops by `choices` within, at every width, not by the table; None: by default.

    For measuring. Choices of an outer `trying` for other ops stay.
    """
    token = _TRIED.set({**_TRIED.get(), **choices})
    try:
        yield
    finally:
        _TRIED.reset(token)


@cache
def table_name(device: torch.device) -> str:
    """The name of `device` in the table."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@remembered
def _from_table(op: str, width: int, device: str) -> Choice | None:
    by_section = (read_ops(section=each).get(device, {}) for each in (OPS, MODELLED))
    found = (by_op.get(op, {}).get(str(width)) for by_op in by_section)
    return next((choice for choice in found if choice is not None), None)


def default_config(width: int) -> LaunchConfig:
    """Tiles of a row, or of PART elements, with 8 to 32 of them for a thread."""
    padded = next_power_of_2(width)
    return LaunchConfig(max(1, PART // padded), max(4, min(8, padded // PART)))


def default_of(op: str, width: int) -> LaunchConfig:
    """The default of `op`: `default_config`, with TURNS where it takes turns."""
    return default_config(width)._replace(turns=TURNS if takes_turns(op) else 1)


def takes_turns(op: str) -> bool:
    """Tell whether the kernel of `op` goes on to further tiles."""
    return OP_ROWS[op].launches.turns != (1,)


def interpreted_config(width: int) -> LaunchConfig:
    """A tile of many rows: Triton's interpreter takes a step's time for each, not for elements."""
    return LaunchConfig(max(8, 4 * PART // next_power_of_2(width)), 1)


def part_of_row(count: int, unit: int = 1) -> int:
    """How many of a row's `count` units, of `unit` columns each, are taken at a time.

    A power of two that divides `count`, of PART columns at most, or one that holds them all.
    """
    divisor = count & -count
    whole = divisor * unit >= PART // 4
    return min(divisor, max(1, PART // unit)) if whole else next_power_of_2(count)


def turns_of(config: LaunchConfig, rows: int, batch: int) -> int:
    """The turns of a program: fewer than those of `config` where programs would be too few."""
    tiles = batch * cdiv(rows, config.rows)
    return max(1, min(config.turns, 1 << max(0, (tiles // PROGRAMS).bit_length() - 1)))


def next_power_of_2(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def cdiv(value: int, divisor: int) -> int:
    return -(-value // divisor)


def launch(kernel: Any, grid: Sequence[int], *args: Any, on: Tensor, **options: Any) -> None:
    """Run a Triton kernel on the device of the tensor `on`."""
    if on.device.type == "cuda" and on.device.index != torch.cuda.current_device():
        with torch.cuda.device(on.device):
            kernel[tuple(grid)](*args, **options)
    else:
        kernel[tuple(grid)](*args, **options)


def launch_rows(
    op: str,
    kernel: Any,
    x: Tensor,
    *others: Tensor | tuple[Tensor, ...],
    **constants: int,
) -> None:
    """Run a kernel of `row_tile` over all rows of `x [B, S, C]`, if there are any.

    The kernel takes the tensors, then all their strides but those of the last axes. Of a tuple of
    tensors it takes the tuple, and for each axis a tuple of strides. `constants` are its own.
    """
    if x.numel() == 0:
        return
    batch, seq, width = x.shape
    config = rows_config(op, width, x.device)
    turns = turns_of(config, seq, batch)
    if takes_turns(op):
        constants["TURNS"] = turns
    launch(
        kernel,
        (cdiv(seq, config.rows * turns), batch),
        x,
        *others,
        *(stride for each in (x, *others) for stride in _strides(each)),
        S=seq,
        C=width,
        BLOCK_M=config.rows,
        BLOCK_C=part_of_row(width),
        **constants,
        num_warps=config.num_warps,
        on=x,
    )


def _strides(tensors: Tensor | tuple[Tensor, ...]) -> Sequence[int | tuple[int, ...]]:
    """The strides of all axes but the last; of several tensors those of one axis together."""
    if isinstance(tensors, Tensor):
        return tensors.stride()[:-1]
    return tuple(zip(*(each.stride()[:-1] for each in tensors), strict=True))


def check_rows(op: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all are floats on one device, contiguous along the last axis."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{op}: {name} must be fp32, bf16 or fp16, got {tensor.dtype}")
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{op}: {name} must be contiguous along its last axis")
        if tensor.device != first.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, not on {first.device}")


def check_shape(op: str, name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{op}: {name} must be {list(shape)}, got {list(tensor.shape)}")
