"""Sample of `disca-rt profile`: which of its stages run when, and under which trace.

Of a whole model each part is loaded once: its encoders, its DiT for a short sample and the profiled
one, its VAE.
"""

import argparse
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from .sampling import sample_request

if TYPE_CHECKING:
    from torch import Tensor

    from ..parallel.ranks import Ranks
    from ..pipeline.request import Request
    from ..pipeline.runtime import Runtime
    from ..profiling.capture import Captured
    from ..profiling.ranges import Ranges


def profiled_sample(
    args: argparse.Namespace, runtime: "Runtime", ranges: "Ranges", ranks: "Ranks | None"
) -> "tuple[Request, Captured]":
    """Request of the flags, and the profile of its sample."""
    from ..profiling.capture import capture, capture_stages, is_whole, joined
    from .out_of_memory import explained_sample
    from .progress import Bar

    device, is_first = runtime.facts.place.device, ranks is None or ranks.is_first
    before, after = [], []
    with ExitStack() as stack:
        make = partial(_request, args, runtime, ranks, stack)
        if is_whole(runtime):
            request, section = capture_stages(make, ranges, device)
            before.append(section)
        else:
            request = make()
        size = 1 if ranks is None else ranks.size
        is_told = is_first and not is_whole(runtime)  # of a whole model its stages were told
        stack.enter_context(explained_sample(runtime, args.ops, request, is_told, size))
        progress = stack.enter_context(Bar("sampling", request.schedule.steps, is_first))
        captured = capture(runtime, ranges, request, progress.on_step)
    if is_whole(runtime) and runtime.decodes:
        decode = partial(_decode, runtime, captured.sample.latents)
        after.append(capture_stages(decode, ranges, device)[1])
    return request, joined(captured, before, after) if before else captured


def run_sample(
    args: argparse.Namespace, runtime: "Runtime", ranges: "Ranges", ranks: "Ranks | None"
) -> None:
    """Runs the sample for a profiler of another process."""
    from ..profiling.capture import is_whole, run_in_ranges

    with ExitStack() as stack:
        with ranges.recording():
            request = _request(args, runtime, ranks, stack)
        sample = run_in_ranges(runtime, ranges, request)
    if is_whole(runtime) and runtime.decodes:
        with ranges.recording():
            _decode(runtime, sample.latents)


def _request(
    args: argparse.Namespace, runtime: "Runtime", ranks: "Ranks | None", stack: ExitStack
) -> "Request":
    """Request whose prompts are encoded; of a whole model the DiT stays in memory in `stack`."""
    from ..profiling.capture import is_whole

    if args.random is not None:
        from .profile_random import random_request

        return runtime.conditioned(random_request(args, runtime))
    request = sample_request(args, runtime, ranks, ranks is None or ranks.is_first)
    if is_whole(runtime):
        stack.enter_context(runtime.keeping_models())
    return request


def _decode(runtime: "Runtime", latents: "Tensor") -> None:
    """Decodes samples, and drops their frames."""
    runtime.decode_into(latents, [lambda chunk: None] * len(latents))
