"""One rank of test_failures.py: rank 1 fails in the way that is asked for, amid exchanges.

Run as `torchrun ... failing_worker.py WAY TIMEOUT`; the ways are the keys of `WAYS`.
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
from disca_rt.parallel.ranks import RankFailure, joined

BEGUN = 3  # attentions before it fails


def _raises() -> None:
    raise ValueError("the disk is full")


WAYS: dict[str, Callable[[], object]] = {
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(3600),
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raises": _raises,
}


def main(way: str, timeout: float) -> None:
    with joined(torch.device("cpu"), timedelta(seconds=timeout)) as ranks:
        attention = UlyssesAttention(ranks.group, LocalAttention(), ranks.timeout)
        ranks.progress = lambda: attention.begun
        tokens = torch.zeros(1, len(attention.sharding.places(20, 4)), 4, 8)
        layout = TokenLayout(0, None, (20, 4))
        for turn in range(10**9):
            if ranks.rank == 1 and turn == BEGUN:
                WAYS[way]()
            with torch.no_grad():
                handle = attention.begin(layout)
                handle.put_v(tokens)
                handle.put_k(tokens.flatten(1, 2))
                handle.put_q(tokens.flatten(1, 2))
                handle.result(NoWork())


def interrupt(signum: int, frame: object) -> None:
    """As the command line does it: torchrun ends the others when one is gone."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except (RankFailure, ValueError, KeyboardInterrupt) as error:
        said = f"RANK {os.environ['RANK']} SAYS {type(error).__name__}: {error}\n"
        os.write(1, said.encode())  # at once: the ranks write to one pipe
        sys.exit(2)
