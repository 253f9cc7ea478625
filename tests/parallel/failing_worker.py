"""One rank of test_failures.py: one fails in the way that is asked for, amid exchanges.

Run as `torchrun ... failing_worker.py WAY WHERE TIMEOUT FOLDER`, with the keys of `WAYS` and
`PLACES`. FAILING_RANK is 1 unless it is set.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from disca_rt.attention.local import LocalAttention
from disca_rt.parallel import ranks as ranks_module
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.failures import RankFailure
from disca_rt.parallel.ranks import Ranks, joined
from disca_rt.parallel.topology import Topology
from disca_rt.tokens import TokenLayout
from parallel.places import HEADS, WHOLE, attend

BEGUN = 3  # attentions before it fails


def _raises() -> None:
    raise ValueError("the disk is full")


WAYS: dict[str, Callable[[], object]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(3600),
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raises": _raises,
}


Fail = Callable[[], object]


def before_an_exchange(ranks: Ranks, fail: Fail, folder: Path) -> None:
    for turn in range(10**9):
        if turn == BEGUN:
            fail()
        attend(ranks.attention)


def in_a_ring(ranks: Ranks, fail: Fail, folder: Path) -> None:
    """Fail while keys and values are on their way round."""
    calls, local = iter(range(10**9)), ranks.attention.local
    attend_part = local.backend.attend_with_lse

    def attend_or_fail(*parts: torch.Tensor | None) -> object:
        if next(calls) == 2 * BEGUN:
            fail()
        return attend_part(*parts)

    local.backend = replace(local.backend, attend_with_lse=attend_or_fail)
    while True:
        attend(ranks.attention)


def before_a_gather(ranks: Ranks, fail: Fail, folder: Path) -> None:
    layout, sharding = TokenLayout(0, None, WHOLE), ranks.attention.sharding
    rows = torch.zeros(1, sharding.share(*WHOLE)[0], 4)
    for turn in range(10**9):
        if turn == BEGUN:
            fail()
        sharding.gather(rows, layout)


def amid_an_operation(ranks: Ranks, fail: Fail, folder: Path) -> None:
    """Fail between two collectives of an operation, as FSDP has them."""
    total = torch.zeros(1)
    for turn in range(10**9):
        with ranks.operation("forward and backward"):
            dist.all_reduce(total)
            if turn == BEGUN:
                fail()
            dist.all_reduce(total)


def in_a_checkpoint(ranks: Ranks, fail: Fail, folder: Path) -> None:
    """Fail while the rank writes its shard."""

    class Writer(dcp.FileSystemWriter):
        def write_data(self, *plan: object) -> object:
            fail()
            return super().write_data(*plan)

    with ranks.operation("checkpoint"):
        dcp.save({"weight": torch.zeros(3)}, storage_writer=Writer(folder))


def at_the_end(ranks: Ranks, fail: Fail, folder: Path) -> None:
    attend(ranks.attention)
    fail()


PLACES = {
    "exchange": before_an_exchange,
    "ring": in_a_ring,
    "gather": before_a_gather,
    "operation": amid_an_operation,
    "checkpoint": in_a_checkpoint,
    "end": at_the_end,
    "gpu": before_an_exchange,  # which no host awaits
}


def main(way: str, where: str, timeout: float, folder: Path) -> None:
    if where == "gpu":
        ranks_module._waits_on_host = lambda ranks: False
    with joined(torch.device("cpu"), timedelta(seconds=timeout)) as ranks:
        patience = timedelta(hours=1) if where == "gpu" else ranks.timeout
        topology = Topology(ranks.group, patience, ulysses_degree=2 if where == "ring" else 0)
        ranks.use(UlyssesAttention(topology, LocalAttention())).prepare(HEADS)
        is_failing = ranks.rank == int(os.environ.get("FAILING_RANK", "1"))
        PLACES[where](ranks, lambda: is_failing and fail(way), folder)


def fail(way: str) -> None:
    os.write(1, f"FAILS AT {time.time()}\n".encode())
    WAYS[way]()


def interrupt(signum: int, frame: object) -> None:
    """Stop as the command line does: torchrun ends the others when one is gone."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
    except (RankFailure, ValueError, KeyboardInterrupt) as error:
        rank, kind = os.environ["RANK"], type(error).__name__
        said = f"RANK {rank} SAYS AT {time.time()} {kind}: {error}\n"
        os.write(1, said.encode())  # at once: the ranks write to one pipe
        sys.exit(2)
