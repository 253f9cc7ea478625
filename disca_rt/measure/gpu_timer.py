"""Timer of work on a GPU, by the GPU's own clock; its CPU time is what launching took."""

import time
from collections.abc import Callable

import torch

from ..instruments.gpu_clock import GPUClock
from .harness import Elapsed, Timer

WARMUP = 5


def device_timer(device: torch.device) -> Timer:
    """Timer of kernels that are launched on `device`'s current stream."""
    clock = GPUClock(device)

    def timed(run: Callable[[], object]) -> Elapsed:
        cpu: list[float] = []

        def launch() -> None:
            started = time.process_time()
            run()
            cpu.append(time.process_time() - started)

        wall = clock(launch)
        return Elapsed(wall, *cpu)

    return Timer(timed, WARMUP)
