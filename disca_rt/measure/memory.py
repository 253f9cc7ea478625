"""Measured memory of a sample, by source, with a check that its values are finite."""

from torch import isfinite

from ..instruments.peak_memory import PeakMemory
from ..kernels.work import tensor_bytes
from ..schedule import preset
from .steps import Subject


def memory_by_source(subject: Subject) -> dict[str, int]:
    """Bytes on this device of weights, cache and activations, from a sample of two steps.

    FloatingPointError where its latents are not finite: then no time would mean anything.
    """
    runtime, schedule = subject.runtime, subject.schedule
    short = preset(2, schedule.shift or 1.0, None if schedule.step_list is None else (0,))
    with PeakMemory(runtime.dit.device) as peak:
        latents = subject.sample(short).latents
    if not isfinite(latents).all():
        raise FloatingPointError(
            f"the latents are not finite in {runtime.dit.dtype}; try --dtype float32"
        )
    cache = subject.cache_bytes
    models = [module for module in (runtime.dit, runtime.predictor) if module is not None]
    return {
        "weights": sum(tensor_bytes(*each.parameters(), *each.buffers()) for each in models),
        "cache": cache,
        "activations": max(0, peak.peak - cache),
        "graphs": 0,
    }
