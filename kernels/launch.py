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

from .launch_table import Choice, LaunchConfig, read_ops, remembered
from .op_table import SPAN as SPAN  # beside `launch_config` in every kernel on flat memory

TILE = 4096  # elements of a program's tile by default: 16 for each of 256 threads
FLOATS = torch.float32, torch.bfloat16, torch.float16

_TRIED: ContextVar[Mapping[str, Choice | None]] = ContextVar("_TRIED", default=MappingProxyType({}))


def launch_config(
    op: str, width: int, device: torch.device, default: LaunchConfig | None = None
) -> LaunchConfig:
    """The launch of rows of `width` elements on `device`; `default` where none was measured."""
    choice = _choice(op, width, device)
    return choice if isinstance(choice, LaunchConfig) else default or default_config(width)


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
    return read_ops().get(device, {}).get(op, {}).get(str(width))


def default_config(width: int) -> LaunchConfig:
    """A tile of about TILE elements."""
    padded = next_power_of_2(width)
    rows = max(1, TILE // 2 // padded)
    return LaunchConfig(rows, max(1, min(8, rows * padded // 512)))


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


def launch_rows(op: str, kernel: Any, x: Tensor, *others: Tensor | tuple[Tensor, ...]) -> None:
    """Run a kernel of `row_tile` over all rows of `x [B, S, C]`, if there are any.

    The kernel takes the tensors, then all their strides but those of the last axes. Of a tuple of
    tensors it takes the tuple, and for each axis a tuple of strides.
    """
    if x.numel() == 0:
        return
    batch, seq, width = x.shape
    config = launch_config(op, width, x.device)
    launch(
        kernel,
        (cdiv(seq, config.rows), batch),
        x,
        *others,
        *(stride for each in (x, *others) for stride in _strides(each)),
        S=seq,
        C=width,
        BLOCK_M=config.rows,
        BLOCK_C=next_power_of_2(width),
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
