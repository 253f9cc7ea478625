"""Traffic of one run of an exchange: bytes that it writes to sockets, and copies beside them.

Both are observed, not derived: the operating system counts the bytes, headers included, and
PyTorch's profiler sees every copy, those in C++ and in gloo's threads too. What gloo does inside
itself (a rank's own part is one memcpy, for every contender) it does not see. Knows no contender.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

IO = Path("/proc/self/io")


class ObservedTraffic(NamedTuple):
    """Traffic of this process; `sent_bytes` is 0 where the operating system does not tell."""

    sent_bytes: int
    copied_elements: int


def traffic(run: Callable[[], object], item_bytes: int) -> ObservedTraffic:
    """Observes `run`, over tensors of `item_bytes` an element; runs it twice."""
    before = _written_bytes()
    run()
    sent = _written_bytes() - before
    with profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True
    ) as profiled:
        run()
    return ObservedTraffic(
        sent, sum(_copied_elements(each, item_bytes) for each in profiled.events())
    )


def _copied_elements(event: FunctionEvent, item_bytes: int) -> int:
    if event.name == "aten::copy_":
        return math.prod(event.input_shapes[0])
    if event.name == "aten::cat":  # the profiler keeps no shapes of lists, but what was allocated
        return event.cpu_memory_usage // item_bytes
    return 0


def _written_bytes() -> int:
    if not IO.is_file():
        return 0
    counts = dict(line.split(": ") for line in IO.read_text().splitlines())
    return int(counts["wchar"])
