"""Timeline read from the events of a Chrome trace: what ran when, and within which ranges.

On a GPU kernels and copies run, each in the ranges that its launch was in; on a CPU PyTorch's
outermost operators. Knows the trace's format and the levels of ranges, no classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .ranges import LEVELS

TRANSPARENT = "disca_rt::", "profiler::"  # operators that only hold others
SCOPE = "::"  # in the name of every operator; an autograd function, which holds others, has none
ON_DEVICE = "kernel", "gpu_memcpy", "gpu_memset"
LAUNCHES = "cuda_runtime", "cuda_driver"

TraceEvent = dict[str, Any]
"""Event of a Chrome trace's `traceEvents`; times are in microseconds."""


class Range(NamedTuple):
    """Named range that was recorded around a part of the sample, on the host's clock."""

    level: str
    name: str
    start_us: float
    end_us: float


class KernelRun(NamedTuple):
    """Run of one kernel on a GPU, or of one operator on a CPU.

    `ranges` are indices into the timeline's ranges, outermost first; `operator` is one into its
    operators, None where no operator of PyTorch's launched it.
    """

    name: str
    start_us: float
    end_us: float
    ranges: tuple[int, ...] = ()
    operator: int | None = None

    @property
    def time_us(self) -> float:
        return self.end_us - self.start_us


class Operator(NamedTuple):
    """Outermost operator of PyTorch's, with the shapes, dtypes and values of its arguments.

    A value is as PyTorch writes it, such as "[1, 1, 1]", and "" for a tensor's.
    """

    name: str
    shapes: Sequence[Sequence[int]] = ()
    dtypes: Sequence[str] = ()
    values: Sequence[str] = ()


class TraceTimeline(NamedTuple):
    """Ranges, operators and runs, each in the order in which they began."""

    ranges: list[Range]
    operators: list[Operator]
    runs: list[KernelRun]
    is_on_gpu: bool


class _Inside(NamedTuple):
    """Ranges and operator that are open on the host until `end_us`."""

    end_us: float
    ranges: tuple[int, ...]
    operator: int | None


def read_timeline(events: Sequence[TraceEvent], is_on_gpu: bool) -> TraceTimeline:
    """Timeline of a trace's events; ValueError where it has no steps."""
    ranges: list[Range] = []
    operators: list[Operator] = []
    host: list[KernelRun] = []
    launches: dict[int | None, _Inside] = {}
    stack = [_Inside(float("inf"), (), None)]
    for event in _of_the_host(events):
        name, start, end = event["name"], event["ts"], event["ts"] + event["dur"]
        while stack[-1].end_us <= start and len(stack) > 1:
            stack.pop()
        inside = stack[-1]
        if event["cat"] == "user_annotation":
            stack.append(_Inside(end, (*inside.ranges, len(ranges)), None))
            ranges.append(Range(*name.split(" ", 1), start, end))
        elif event["cat"] in LAUNCHES:
            launches[_correlation(event)] = inside
        elif inside.operator is None and SCOPE in name and not name.startswith(TRANSPARENT):
            stack.append(inside._replace(end_us=end, operator=len(operators)))
            host.append(KernelRun(name, start, end, inside.ranges, len(operators)))
            operators.append(_operator(event))
    runs = list(_of_the_gpu(events, launches)) if is_on_gpu else host
    return TraceTimeline(ranges, operators, runs, is_on_gpu)


def _of_the_host(events: Sequence[TraceEvent]) -> list[TraceEvent]:
    """Events of the sampling thread's ranges and operators, and all launches; outer ones first."""
    complete = [event for event in events if event.get("ph") == "X"]
    annotations = [event for event in complete if event.get("cat") == "user_annotation"]
    ours = [event for event in annotations if event["name"].split(" ")[0] in LEVELS]
    steps = [event for event in ours if event["name"].startswith("step ")]
    if not steps:
        raise ValueError("the trace has no steps: the sample did not run under marked ranges")
    thread = steps[0]["tid"]
    operators = [e for e in complete if e.get("cat") == "cpu_op" and e["tid"] == thread]
    launches = [event for event in complete if event.get("cat") in LAUNCHES]
    host = (*ours, *operators, *launches)
    return sorted(host, key=lambda event: (event["ts"], -event["dur"]))  # stable: ranges first


def _of_the_gpu(
    events: Sequence[TraceEvent], launches: dict[int | None, _Inside]
) -> Iterator[KernelRun]:
    nowhere = _Inside(0, (), None)
    device = [event for event in events if event.get("cat") in ON_DEVICE]
    for event in sorted(device, key=lambda event: event["ts"]):
        inside = launches.get(_correlation(event), nowhere)
        end = event["ts"] + event["dur"]
        yield KernelRun(event["name"], event["ts"], end, inside.ranges, inside.operator)


def _correlation(event: TraceEvent) -> int | None:
    """Number that a launch shares with the kernel it launched."""
    return event.get("args", {}).get("correlation")


def _operator(event: TraceEvent) -> Operator:
    args = event.get("args", {})
    told = (args.get(key, ()) for key in ("Input Dims", "Input type", "Concrete Inputs"))
    return Operator(event["name"], *told)
