"""Traffic of one run of an exchange: bytes that it writes to sockets, and copies beside them.

Both are observed, not derived: the operating system counts the bytes, headers included, and
PyTorch's profiler sees every copy, those in C++ and in gloo's threads too. What gloo does inside
itself (a rank's own part is one memcpy, for every contender) it does not see. Knows no contender.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

from disca_rt.profiling.work import COPY, operator_work

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
    copied = sum(map(_copied_bytes, profiled.profiler.kineto_results.events()))
    # The profiler keeps no shapes of lists, but what was allocated.
    joined = sum(e.cpu_memory_usage for e in profiled.events() if e.name == "aten::cat")
    return ObservedTraffic(sent, (copied + joined) // item_bytes)


def _copied_bytes(event: Any) -> int:
    """Bytes that one operator writes if it is a copy, whose elements may be wide ones."""
    if event.name() != COPY:
        return 0
    return operator_work(COPY, event.shapes(), event.dtypes()).minimum_bytes // 2


def _written_bytes() -> int:
    if not IO.is_file():
        return 0
    counts = dict(line.split(": ") for line in IO.read_text().splitlines())
    return int(counts["wchar"])
