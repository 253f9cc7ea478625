"""Runs one sample of a runtime under PyTorch's profiler, after a short one that warms up.

Knows runtimes and profilers; what the trace says is read elsewhere.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from ..cache.policy import StepKind
from ..instruments.stopwatch import StageTime
from ..pipeline.pipeline import Sample
from ..pipeline.request import Request
from ..pipeline.runtime import Runtime
from ..schedule import Schedule, full_schedule
from .marked import MarkedPolicy, OnStep, marked_blocks
from .ranges import Ranges
from .work import Work


class Captured(NamedTuple):
    """`trace` is a Chrome trace, `kinds` of its steps and `works` of its op ranges in order.

    `unprofiled` are the times of a short sample of the same kind that no profiler slowed down.
    """

    trace: dict[str, Any]
    kinds: list[StepKind]
    works: list[Work]
    sample: Sample
    unprofiled: dict[str, StageTime]


def capture(
    runtime: Runtime,
    ranges: Ranges,
    request: Request,
    on_step: OnStep,
) -> Captured:
    """Run `request` on a `runtime` whose ops and attention are marked in `ranges`."""
    policy = runtime.policy(request)
    short = replace(request, schedule=short_schedule(request.schedule), policy=policy)

    def run_short() -> Sample:
        return runtime.run(short)

    _traced(run_short, runtime.dit.device)  # the first one sets the profiler up as well
    unprofiled = run_short().times
    marked = MarkedPolicy(policy, ranges, on_step)
    request = replace(request, policy=marked)
    with marked_blocks(runtime, ranges), ranges.recording():
        run = partial(runtime.run, request, on_step=marked.on_step)
        sample, trace = _traced(run, runtime.dit.device)
    trace = named_steps(trace, marked.kinds)
    return Captured(trace, marked.kinds, ranges.works, sample, unprofiled)


def run_in_ranges(runtime: Runtime, ranges: Ranges, request: Request) -> Sample:
    """Run the same sample in the same ranges, for a profiler outside of this process."""
    policy = runtime.policy(request)
    runtime.run(replace(request, schedule=short_schedule(request.schedule), policy=policy))
    marked = MarkedPolicy(policy, ranges)
    with marked_blocks(runtime, ranges), ranges.recording():
        return runtime.run(replace(request, policy=marked), on_step=marked.on_step)


def short_schedule(schedule: Schedule) -> Schedule:
    """At most two steps, one of each kind where there are two."""
    steps = min(2, schedule.steps)
    if schedule.full_steps == schedule.steps:
        return full_schedule(steps, schedule.shift)
    return replace(schedule, steps=steps, step_list=(0,))


def _traced(run: Callable[[], Sample], device: torch.device) -> tuple[Sample, dict[str, Any]]:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        sample = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return sample, json.loads(path.read_text())


def named_steps(trace: dict[str, Any], kinds: list[StepKind]) -> dict[str, Any]:
    """`trace` with the kind in the name of each step, which was not known when the step began.

    Without what would tell where it was made.
    """
    names = {f"step {index}": f"step {index} {kind}" for index, kind in enumerate(kinds)}
    events = [
        event | {"name": names.get(event["name"], event["name"])}
        if event.get("cat", "").endswith("user_annotation")
        else event
        for event in trace["traceEvents"]
    ]
    kept = {key: value for key, value in trace.items() if key not in ("traceName", "host_name")}
    return {**kept, "traceEvents": events}
