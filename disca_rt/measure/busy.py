"""The share of a piece of work's wall time in which the device was at work. Knows no model."""

import time
from collections.abc import Callable, Iterable

import torch

Span = tuple[float, float]


def busy_share(run: Callable[[], object], device: torch.device) -> float:
    """On a GPU under the profiler, whose own cost on the host makes it a lower bound.

    On a CPU: the CPU time of all threads over what they could have had.
    """
    if device.type == "cuda":
        return _on_gpu(run, device)
    started, cpu = time.perf_counter(), time.process_time()
    run()
    taken = time.perf_counter() - started
    return min(1.0, (time.process_time() - cpu) / taken / torch.get_num_threads())


def _on_gpu(run: Callable[[], object], device: torch.device) -> float:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        wall_us = 1e6 * (time.perf_counter() - started)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return covered(spans) / wall_us


def covered(spans: Iterable[Span]) -> float:
    """The length of the union of intervals: kernels of several streams overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
