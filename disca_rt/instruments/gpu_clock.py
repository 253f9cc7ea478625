"""Clock of a GPU for one call, with a cold L2. Knows no kernel.

Between two events lies what the GPU did only if the call was launched before the GPU came to the
first of them. So what is queued ahead of it takes longer than Python takes for a launch.
"""

from collections.abc import Callable

import torch

FLUSHED = 256 * 2**20  # bytes written at a time: several times any L2
FLUSHES = 8  # 0.5 ms together at the 4 TB/s at which an H200 writes


class GPUClock:
    """Clock that gives the seconds of a function on `device`'s current stream."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(FLUSHED, dtype=torch.int8, device=device)

    def __call__(self, run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(FLUSHES):
            self._memory.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
