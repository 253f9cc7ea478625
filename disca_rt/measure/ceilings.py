"""Ceilings of a device, measured in the same run: the rates of a matrix product and of a copy."""

from collections.abc import Callable
from math import ceil
from statistics import median
from typing import NamedTuple

import torch

from ..instruments.ceiling_work import ceiling_work
from .device_timer import device_timer
from .harness import Comparison, Contender

MATMUL, COPY, SUSTAINED = "matrix product", "copy", "matrix product, sustained"
SAMPLES = 30
SUSTAINED_S = 2.0  # a forward of 13B takes longer, and runs at the power limit
FEW_WARMUP, FEW_SAMPLES = 3, 10  # a second at most


class Ceilings(NamedTuple):
    """Highest rates of a device; `bytes_per_s` counts what a copy reads and what it writes.

    `size` is the side of the square matrices that were multiplied, in `dtype`.
    """

    flops_per_s: float
    bytes_per_s: float
    size: int
    dtype: str
    threads: int


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Ceilings of `device` by the medians of a few runs, the product in `dtype`."""
    timer, work = device_timer(device), ceiling_work(device, dtype)

    def seconds(run: Callable[[], object]) -> float:
        for _ in range(FEW_WARMUP):
            run()
        return median(timer.time(run).wall for _ in range(FEW_SAMPLES))

    return Ceilings(
        work.flops / seconds(work.product),
        work.moved_bytes / seconds(work.copy),
        work.side,
        str(dtype).removeprefix("torch."),
        torch.get_num_threads(),
    )


def ceilings(device: torch.device, dtype: torch.dtype, is_quick: bool) -> list[Comparison]:
    """Comparisons of one contender each, for a results file: the product, and the copy."""
    work = ceiling_work(device, dtype, is_quick)
    name = str(dtype).removeprefix("torch.")
    product = Contender(MATMUL, work.product, flops=work.flops)
    copy = Contender(COPY, work.copy, minimum_bytes=work.moved_bytes)
    return [
        Comparison(MATMUL, {"side": work.side}, name, [product], SAMPLES),
        Comparison(COPY, {"bytes": work.copied}, "uint8", [copy], SAMPLES),
    ]


def sustained(device: torch.device, dtype: torch.dtype, is_quick: bool = False) -> Comparison:
    """Comparison of one contender: products without a pause, for as long as power limits them."""
    work = ceiling_work(device, dtype, is_quick)
    seconds = 0.0 if is_quick else SUSTAINED_S
    work.product()
    once = device_timer(device).time(work.product).wall
    count = max(1, ceil(seconds / once))

    def run() -> None:
        for _ in range(count):
            work.product()

    product = Contender(SUSTAINED, run, flops=count * work.flops, warm_up=work.product)
    shape, name = {"side": work.side, "seconds": seconds}, str(dtype).removeprefix("torch.")
    return Comparison(SUSTAINED, shape, name, [product], samples=1)
