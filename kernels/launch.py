"""How kernels are launched: by a table per (device, op, width), and the launch itself.

The table is data, measured by `disca-rt tune`; a device or width it lacks gets a default that is a
formula. Either way a launch depends on shapes alone, so nothing changes under a graph capture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .launch_table import ATTENTION, read_table

TILE = 4096  # elements of a program's tile by default: 16 for each of 256 threads
SPAN = 1024  # elements of a row, in the table too, of ops that work on flat memory
FLOATS = torch.float32, torch.bfloat16, torch.float16


class LaunchConfig(NamedTuple):
    """`rows` per program, and the warps that share them."""

    rows: int
    num_warps: int


Choice = LaunchConfig | str
"""What an op is launched with at one width; of an op with variants, the name of one."""

_tried: dict[str, Choice | None] = {}  # by op, instead of the table's; see `trying`


def launch_config(
    op: str, width: int, device: torch.device, default: LaunchConfig | None = None
) -> LaunchConfig:
    """Of rows of `width` elements on `device`; `default` where the table has none."""
    return measured_choice(op, width, device) or default or default_config(width)


def measured_choice(op: str, width: int, device: torch.device) -> Any:
    """The table's choice for `op`, None where it has none."""
    return _tried.get(op) or _from_table(op, width, table_name(device))


def measured_attention(width: int, device: torch.device) -> tuple[str, ...]:
    """Attention backends by name, the fastest first; empty where none was measured."""
    return _attention_of_table(width, table_name(device))


@contextmanager
def trying(op: str, choice: Choice | None) -> Iterator[None]:
    """Within, `op` is launched with `choice` at every width; None: as by the table.

    For measuring: what is tried is global, not a thread's.
    """
    _tried[op] = choice
    try:
        yield
    finally:
        del _tried[op]


@cache
def table_name(device: torch.device) -> str:
    """What the table calls `device`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _attention_of_table(width: int, device: str) -> tuple[str, ...]:
    return tuple(read_table().get(device, {}).get(ATTENTION, {}).get(str(width), ()))


@cache
def _from_table(op: str, width: int, device: str) -> Choice | None:
    measured = read_table().get(device, {}).get(op, {}).get(str(width))
    return LaunchConfig(*measured) if isinstance(measured, list) else measured


def default_config(width: int) -> LaunchConfig:
    """A tile of about TILE elements."""
    padded = next_power_of_2(width)
    rows = max(1, TILE // 2 // padded)
    return LaunchConfig(rows, max(1, min(8, rows * padded // 512)))


def forget_table() -> None:
    """Read the file again at the next launch."""
    _from_table.cache_clear()
    _attention_of_table.cache_clear()


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


def check_rows(op: str, **tensors: Tensor) -> None:
    """ValueError unless every tensor is floating point with contiguous last axis, on one device."""
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
