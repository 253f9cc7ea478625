"""Times work on a GPU by its own clock; `cpu` is what launching it took."""

import time
from collections.abc import Callable

import torch

from ..instruments.gpu_clock import GPUClock
from .harness import Taken, Timer

WARMUP = 5


def device_timer(device: torch.device) -> Timer:
    """For kernels launched on `device`'s current stream."""
    clock = GPUClock(device)

    def timed(run: Callable[[], object]) -> Taken:
        cpu: list[float] = []

        def launch() -> None:
            started = time.process_time()
            run()
            cpu.append(time.process_time() - started)

        wall = clock(launch)
        return Taken(wall, *cpu)

    return Timer(timed, WARMUP)
