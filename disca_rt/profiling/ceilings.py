"""What the device does at best, measured here and now: medians of `runtime.ceiling_work`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from ..instruments.ceiling_work import ceiling_work
from ..instruments.gpu_clock import GPUClock

WARMUP, SAMPLES = 3, 10


@dataclass(frozen=True)
class Ceilings:
    """`bytes_per_s` counts what a copy reads and what it writes; `size` is the products'."""

    flops_per_s: float
    bytes_per_s: float
    size: int
    dtype: str
    threads: int


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Of `size`³ in `dtype`; a second at most."""
    clock = GPUClock(device) if device.type == "cuda" else _host_clock
    work = ceiling_work(device, dtype)
    return Ceilings(
        work.flops / _seconds(clock, work.product),
        work.moved_bytes / _seconds(clock, work.copy),
        work.side,
        str(dtype).removeprefix("torch."),
        torch.get_num_threads(),
    )


def _seconds(clock: Callable[[Callable[[], object]], float], run: Callable[[], object]) -> float:
    for _ in range(WARMUP):
        run()
    return median(clock(run) for _ in range(SAMPLES))


def _host_clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
