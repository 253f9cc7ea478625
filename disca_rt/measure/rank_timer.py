"""Times work that ranks share: they begin together; the slowest one's time, all their CPU time."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from .harness import Taken, Timer


def slowest(timer: Timer, group: ProcessGroup, device: torch.device) -> Timer:
    """`timer` on every rank of `group`; all of them must run the same contenders."""

    def over_ranks(reduce: dist.ReduceOp, value: float) -> float:
        reduced = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(reduced, reduce, group=group)
        return reduced.item()

    def timed(run: Callable[[], object]) -> Taken:
        dist.barrier(group)
        wall, cpu = timer.time(run)
        return Taken(over_ranks(dist.ReduceOp.MAX, wall), over_ranks(dist.ReduceOp.SUM, cpu))

    return Timer(timed, timer.warmup)
