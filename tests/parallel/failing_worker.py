"""One rank of test_failures.py: rank 1 fails in the way that is asked for, amid exchanges.

Run as `torchrun ... failing_worker.py WAY WHERE TIMEOUT`, with the keys of `WAYS` and `PLACES`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch

from disca_rt.attention import LocalAttention, NoWork, TokenLayout
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.partial import PARTIAL_BACKENDS
from disca_rt.parallel.ranks import RankFailure, joined

BEGUN = 3  # attentions before it fails
WHOLE = 20, 4  # tokens


def _raises() -> None:
    raise ValueError("the disk is full")


WAYS: dict[str, Callable[[], object]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(3600),
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raises": _raises,
}


def before_an_exchange(attention: UlyssesAttention, fail: Callable[[], object]) -> None:
    for turn in range(10**9):
        if turn == BEGUN:
            fail()
        attend(attention)


def in_a_ring(attention: UlyssesAttention, fail: Callable[[], object]) -> None:
    """While keys and values are on their way round."""
    calls, attend_part = iter(range(10**9)), PARTIAL_BACKENDS["sdpa"]

    def attend_or_fail(*parts: torch.Tensor | None) -> object:
        if next(calls) == 2 * BEGUN:
            fail()
        return attend_part(*parts)

    PARTIAL_BACKENDS["sdpa"] = attend_or_fail
    while True:
        attend(attention)


def before_a_gather(attention: UlyssesAttention, fail: Callable[[], object]) -> None:
    layout = TokenLayout(0, None, WHOLE)
    count = int((attention.sharding.places(*WHOLE) < WHOLE[0]).sum())
    rows = torch.zeros(1, count, 4)
    for turn in range(10**9):
        if turn == BEGUN:
            fail()
        attention.sharding.gather(rows, layout)


def at_the_end(attention: UlyssesAttention, fail: Callable[[], object]) -> None:
    attend(attention)
    fail()


PLACES = {
    "exchange": before_an_exchange,
    "ring": in_a_ring,
    "gather": before_a_gather,
    "end": at_the_end,
}


def attend(attention: UlyssesAttention) -> None:
    tokens = torch.zeros(1, len(attention.sharding.places(*WHOLE)), 4, 8)
    with torch.no_grad():
        handle = attention.begin(TokenLayout(0, None, WHOLE))
        handle.put_v(tokens)
        handle.put_k(tokens.flatten(1, 2))
        handle.put_q(tokens.flatten(1, 2))
        handle.result(NoWork())


def main(way: str, where: str, timeout: float) -> None:
    with joined(torch.device("cpu"), timedelta(seconds=timeout)) as ranks:
        degree = 2 if where == "ring" else 0
        attention = ranks.use(
            UlyssesAttention(ranks.group, LocalAttention(), ranks.timeout, ulysses_degree=degree)
        )
        PLACES[where](attention, lambda: ranks.rank == 1 and fail(way))


def fail(way: str) -> None:
    os.write(1, f"FAILS AT {time.time()}\n".encode())
    WAYS[way]()


def interrupt(signum: int, frame: object) -> None:
    """As the command line does it: torchrun ends the others when one is gone."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    except (RankFailure, ValueError, KeyboardInterrupt) as error:
        rank, kind = os.environ["RANK"], type(error).__name__
        said = f"RANK {rank} SAYS AT {time.time()} {kind}: {error}\n"
        os.write(1, said.encode())  # at once: the ranks write to one pipe
        sys.exit(2)
