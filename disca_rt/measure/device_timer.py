"""Timer of work on a device: a GPU's by its own clock, whose CPU time is what launching took."""

import time
from collections.abc import Callable

import torch

from ..instruments.gpu_clock import GPUClock
from .harness import Elapsed, Timer, host_timer

WARMUP = 5


def device_timer(device: torch.device) -> Timer:
    """Timer by the host's clocks or, on a GPU, of kernels on `device`'s current stream."""
    if device.type != "cuda":
        return host_timer()
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
