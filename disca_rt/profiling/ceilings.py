"""What the device does at best, measured here and now: a large product, a large copy.

Medians, on random data (a chip that is limited by its power multiplies zeros faster). Knows no
model.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from ..runtime.gpu_clock import GPUClock

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
    is_gpu = device.type == "cuda"
    size, copied = (8192, 2**30) if is_gpu else (1024, 2**28)
    clock = GPUClock(device) if is_gpu else _host_clock
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    matmul = _seconds(clock, lambda: torch.mm(a, b, out=product))
    source = torch.randint(0, 255, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _seconds(clock, lambda: target.copy_(source))
    name = str(dtype).removeprefix("torch.")
    return Ceilings(2 * size**3 / matmul, 2 * copied / copy, size, name, torch.get_num_threads())


def _seconds(clock: Callable[[Callable[[], object]], float], run: Callable[[], object]) -> float:
    for _ in range(WARMUP):
        run()
    return median(clock(run) for _ in range(SAMPLES))


def _host_clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
