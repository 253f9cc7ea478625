"""Measures the attention backends that are here, for the launch table. Knows no clock.

At the shapes of the real models: all heads, and the heads of one of eight ranks, which has all
tokens then.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..kernels.launch_table import ATTENTION, ATTENTION_BACKENDS
from ..kernels.tune import Clock, Measured
from ..kernels.workload import SENT_TO, Make, Shapes
from .flash_packages import is_here
from .local import BACKENDS, get_backend


def measure(shapes: Iterable[Shapes], make: Make, clock: Clock) -> Iterator[Measured]:
    """The default is sdpa, PyTorch's choice. One that fails is told and left out."""
    for each in shapes:
        for ranks in (1, SENT_TO):
            name = each.name if ranks == 1 else f"{each.name}, {ranks} ranks"
            heads, width = each.heads // ranks, each.hidden // each.heads
            q, k, v = (make(1, each.tokens, heads, width) for _ in range(3))
            timed = {backend: _seconds(backend, q, k, v, clock) for backend in candidates()}
            seconds = {backend: time for backend, time in timed.items() if time is not None}
            yield Measured(ATTENTION, name, width, {None: seconds["sdpa"], **seconds})


def candidates() -> list[str]:
    """Those that can be imported."""
    return [name for name in ATTENTION_BACKENDS if name in BACKENDS or is_here(name)]


def _seconds(backend: str, q: Tensor, k: Tensor, v: Tensor, clock: Clock) -> float | None:
    try:
        return clock(partial(get_backend(backend), q, k, v, None))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of another's code: whatever it is, the others are measured
        print(f"no {backend}: {str(error).strip().partition(chr(10))[0]}", flush=True)
        return None
