"""Times work on a GPU by its own clock, each run with a cold L2."""

import time
from collections.abc import Callable

import torch

from .harness import Taken, Timer

FLUSHED = 256 * 2**20  # bytes written between runs: several times any L2
WARMUP = 5


def device_timer(device: torch.device) -> Timer:
    """For kernels launched on `device`'s current stream; `cpu` is what launching them took."""
    cache = torch.empty(FLUSHED, dtype=torch.int8, device=device)

    def timed(run: Callable[[], object]) -> Taken:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        launched = time.process_time()
        start.record()
        run()
        end.record()
        cpu = time.process_time() - launched
        end.synchronize()
        return Taken(start.elapsed_time(end) / 1e3, cpu)

    return Timer(timed, WARMUP)
