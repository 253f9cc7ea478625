"""Runs one sample of a runtime under PyTorch's profiler, after a short one that warms up.

Of a whole model each part is loaded once: the stages before and after the steps are traced apart,
and the traces are joined. Knows runtimes and profilers; what the trace says is read elsewhere.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

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

T = TypeVar("T")
OnStep = Callable[[StepEvent], None]


class Section(NamedTuple):
    """Part of a profile that was traced by itself, and the works of its op ranges in order."""

    trace: dict[str, Any]
    works: list[Work]


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

    device = runtime.facts.place.device
    _traced(run_short, device)  # the first one sets the profiler up as well
    unprofiled = run_short().times
    with marked_blocks(runtime, ranges):
        run = partial(runtime.run, request, decode=not is_whole(runtime), on_step=collect)
        sample, (trace, works) = capture_stages(run, ranges, device)
    return Captured(named_steps(trace, kinds), kinds, works, sample, unprofiled)


def capture_stages(run: Callable[[], T], ranges: Ranges, device: torch.device) -> tuple[T, Section]:
    """Profiles `run`, whose stages are marked in `ranges`; gives what it returns as well."""
    with ranges.recording():
        result, trace = _traced(run, device)
    return result, Section(trace, ranges.works)


def run_in_ranges(runtime: Runtime, ranges: Ranges, request: Request) -> Sample:
    """Runs the sample that `capture` profiles, in its ranges, for a profiler of another process."""
    _run_short(runtime, request)
    with marked_blocks(runtime, ranges), ranges.recording():
        return runtime.run(request, decode=not is_whole(runtime))


def is_whole(runtime: Runtime) -> bool:
    """True for a whole model's folder, whose encoders and VAE are profiled as well."""
    return runtime.facts.folder is not None


def _run_short(runtime: Runtime, request: Request) -> Sample:
    schedule, policy = shortened(*runtime.resolved(request))
    short = replace(request, schedule=schedule, policy=policy)
    return runtime.run(short, decode=not is_whole(runtime))


def shortened(schedule: Schedule, policy: Policy) -> tuple[Schedule, Policy]:
    """Two steps of `schedule`, or one, and a `policy` by which the second is not full if any is."""
    short = Schedule(schedule.sigmas[: min(2, schedule.steps)])
    return short, replace(policy, rule=Listed((0,))) if policy.slots else policy


def _traced(run: Callable[[], T], device: torch.device) -> tuple[T, dict[str, Any]]:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return result, json.loads(path.read_text())


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


def joined(captured: Captured, before: Sequence[Section], after: Sequence[Section]) -> Captured:
    """Profile with the sections that ran `before` and `after` its steps, as if without pauses."""
    traces = [*(each.trace for each in before), captured.trace, *(each.trace for each in after)]
    works = [*(each.works for each in before), captured.works, *(each.works for each in after)]
    events: list[dict[str, Any]] = []
    end = None
    for trace in traces:
        complete = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
        start = min(event["ts"] for event in complete)
        shift = 0.0 if end is None else end - start
        events += [
            {**event, "ts": event["ts"] + shift} if "ts" in event else event
            for event in trace["traceEvents"]
        ]
        end = max(event["ts"] + event["dur"] for event in complete) + shift
    trace = {**captured.trace, "traceEvents": events}
    return captured._replace(trace=trace, works=[work for some in works for work in some])
