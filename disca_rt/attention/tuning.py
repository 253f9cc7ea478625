"""Measures the attention backends that are here, for the launch table. Knows no clock.

At the shapes of the real models: all heads, and the heads of one of eight ranks, which has all
tokens then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..errors import first_line
from ..kernels.tune import Clock, Timing, ranked
from ..kernels.workload import SENT_TO, Make, Shapes
from .backends import BACKENDS, DEFAULT, SECTION, Backend


def measure(shapes: Iterable[Shapes], make: Make, clock: Clock) -> Iterator[Timing]:
    """Seconds of every backend at each of `shapes`; one that fails is told and left out."""
    rows = [row for row in BACKENDS.values() if row.is_measured and row.missing() is None]
    for each in shapes:
        for ranks in (1, SENT_TO):
            name = each.name if ranks == 1 else f"{each.name}, {ranks} ranks"
            heads, width = each.heads // ranks, each.hidden // each.heads
            q, k, v = (make(1, each.tokens, heads, width) for _ in range(3))
            timed = {row.name: _seconds(row, q, k, v, clock) for row in rows}
            seconds = {backend: time for backend, time in timed.items() if time is not None}
            yield Timing(SECTION, name, width, {None: seconds[DEFAULT], **seconds})


def _seconds(backend: Backend, q: Tensor, k: Tensor, v: Tensor, clock: Clock) -> float | None:
    try:
        return clock(partial(backend, q, k, v, None))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # another's code: whatever it is, the others are measured
        print(f"no {backend.name}: {first_line(error)}", flush=True)
        return None


def winners(measured: Iterable[Timing]) -> dict[str, list[str]]:
    """Names of backends by head width, the fastest first: a machine may lack that one."""
    groups: dict[str, list[Timing]] = defaultdict(list)
    for each in measured:
        groups[str(each.width)].append(each)
    return {width: [str(name) for name in ranked(group)] for width, group in groups.items()}
