"""One rank of test_exchange.py: an attention that is closed, and one that outlives its group.

Run as `torchrun ... forgotten_worker.py`; ends with an error where a group or a buffer is left.
"""

from datetime import timedelta

import torch
import torch.distributed as dist

from disca_rt.attention.local import LocalAttention
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.ranks import joined
from disca_rt.parallel.topology import Topology
from parallel.places import HEADS, attend

FORGOTTEN: list[UlyssesAttention] = []  # alive when the interpreter goes


def main() -> None:
    with joined(torch.device("cpu"), timedelta(seconds=60)) as ranks:
        closed, forgotten = (
            UlyssesAttention(
                Topology(ranks.group, ranks.timeout, ulysses_degree=1), LocalAttention()
            )
            for _ in range(2)
        )
        groups = dist.distributed_c10d._world.pg_map
        assert len(groups) == 1
        for attention in (closed, forgotten):
            attention.prepare(HEADS)
            attend(attention)
        assert len(groups) == 5  # each has two more
        closed.close()
        assert len(groups) == 3
        assert not closed._recent
        ranks.use(closed)
        FORGOTTEN.append(forgotten)
        forgotten.itself = forgotten
    assert not dist.is_initialized()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
