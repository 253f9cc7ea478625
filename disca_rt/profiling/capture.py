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

from ..cache.policy import Policy
from ..cache.rules.listed import Listed
from ..instruments.stopwatch import StageTime
from ..pipeline.request import Request
from ..pipeline.runtime import Runtime
from ..pipeline.sample import Sample
from ..sampling.loop import StepEvent
from ..schedule import Schedule
from .marked import marked_blocks
from .ranges import Ranges
from .work import Work

OnStep = Callable[[StepEvent], None]


class Captured(NamedTuple):
    """Profiled sample: its Chrome trace, kinds of its steps and works of its op ranges in order.

    `unprofiled` are the times of a short sample of the same kind that no profiler slowed down.
    """

    trace: dict[str, Any]
    kinds: list[str]
    works: list[Work]
    sample: Sample
    unprofiled: dict[str, StageTime]


def capture(runtime: Runtime, ranges: Ranges, request: Request, on_step: OnStep) -> Captured:
    """Profiles one sample of `runtime`, whose ops and attention are marked in `ranges`."""
    kinds: list[str] = []

    def collect(event: StepEvent) -> None:
        kinds.append(event.kind)
        on_step(event)

    def run_short() -> Sample:
        return _run_short(runtime, request)

    _traced(run_short, runtime.dit.device)  # the first one sets the profiler up as well
    unprofiled = run_short().times
    with marked_blocks(runtime, ranges), ranges.recording():
        run = partial(runtime.run, request, on_step=collect)
        sample, trace = _traced(run, runtime.dit.device)
    return Captured(named_steps(trace, kinds), kinds, ranges.works, sample, unprofiled)


def run_in_ranges(runtime: Runtime, ranges: Ranges, request: Request) -> Sample:
    """Runs the sample that `capture` profiles, in its ranges, for a profiler of another process."""
    _run_short(runtime, request)
    with marked_blocks(runtime, ranges), ranges.recording():
        return runtime.run(request)


def _run_short(runtime: Runtime, request: Request) -> Sample:
    schedule, policy = shortened(*runtime.resolved(request))
    return runtime.run(replace(request, schedule=schedule, policy=policy))


def shortened(schedule: Schedule, policy: Policy) -> tuple[Schedule, Policy]:
    """Two steps of `schedule`, or one, and a `policy` by which the second is not full if any is."""
    short = Schedule(schedule.sigmas[: min(2, schedule.steps)])
    return short, replace(policy, rule=Listed((0,))) if policy.slots else policy


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


def named_steps(trace: dict[str, Any], kinds: list[str]) -> dict[str, Any]:
    """Trace with the kind in each step's name, which was not known when the step began.

    The names of the machine and the file are taken out.
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
