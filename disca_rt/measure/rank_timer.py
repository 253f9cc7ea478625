"""Timer of work that ranks share: they begin together, and the slowest one's time counts."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from .harness import Elapsed, Timer


def slowest(timer: Timer, group: ProcessGroup, device: torch.device) -> Timer:
    """Timer by `timer` on all ranks of `group`, which must run the same contenders.

    Gives the longest wall time and the sum of the CPU times.
    """

    def over_ranks(reduce: dist.ReduceOp, value: float) -> float:
        reduced = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(reduced, reduce, group=group)
        return reduced.item()

    def timed(run: Callable[[], object]) -> Elapsed:
        dist.barrier(group)
        wall, cpu = timer.time(run)
        return Elapsed(over_ranks(dist.ReduceOp.MAX, wall), over_ranks(dist.ReduceOp.SUM, cpu))

    return Timer(timed, timer.warmup)
