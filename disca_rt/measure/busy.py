"""Share of the wall time of some work in which the device was busy. Knows no model."""

import time
from collections.abc import Callable

import torch

from ..instruments.time_spans import union


def busy_share(run: Callable[[], object], device: torch.device) -> float:
    """Share, from 0 to 1, of the wall time of `run` in which `device` worked.

    A GPU's is measured under the profiler, whose own cost on the host makes it a lower bound; a
    CPU's is the CPU time of all threads over what they could have had.
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
    return sum(end - start for start, end in union(spans)) / wall_us
