"""Times work that several ranks share: they begin together, and the slowest one's time counts."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from ..parallel.ranks import Ranks
from .harness import Taken, Timer


def slowest(timer: Timer, ranks: Ranks) -> Timer:
    """`timer` on every rank; all of them must run the same contenders."""

    def timed(run: Callable[[], object]) -> Taken:
        dist.barrier(ranks.group)
        taken = torch.tensor(timer.time(run), dtype=torch.float64, device=ranks.device)
        dist.all_reduce(taken, dist.ReduceOp.MAX, group=ranks.group)
        return Taken(*taken.tolist())

    return Timer(timed, timer.warmup)
