"""From the events of a Chrome trace to what ran when, and within which ranges.

On a GPU what ran are its kernels and copies, each under the ranges that its launch was under; on a
CPU PyTorch's outermost operators. Knows the trace's format and the levels of ranges, no classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .ranges import LEVELS

TRANSPARENT = "disca_rt::", "profiler::"  # operators that only hold others
SCOPE = "::"  # in the name of every operator; an autograd function, which holds others, has none
ON_DEVICE = "kernel", "gpu_memcpy", "gpu_memset"
LAUNCHES = "cuda_runtime", "cuda_driver"

Event = dict[str, Any]
"""One of a Chrome trace's `traceEvents`; times are in microseconds."""


class Range(NamedTuple):
    """One of `ranges.Ranges`, on the host."""

    level: str
    name: str
    start_us: float
    end_us: float


class Piece(NamedTuple):
    """One kernel, or on a CPU one operator.

    `ranges` are indices into the timeline's, outermost first; `operator` is an index into its
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
    """An outermost operator of PyTorch's, with the shapes and dtypes of its arguments."""

    name: str
    shapes: Sequence[Sequence[int]] = ()
    dtypes: Sequence[str] = ()


class Timeline(NamedTuple):
    """`ranges` and `operators` in the order in which they began, pieces too."""

    ranges: list[Range]
    operators: list[Operator]
    pieces: list[Piece]
    is_on_gpu: bool


class _Inside(NamedTuple):
    """What is open on the host, until `end_us`."""

    end_us: float
    ranges: tuple[int, ...]
    operator: int | None


def read_timeline(events: Sequence[Event], is_on_gpu: bool) -> Timeline:
    """ValueError where the trace has no steps."""
    ranges: list[Range] = []
    operators: list[Operator] = []
    host: list[Piece] = []
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
            host.append(Piece(name, start, end, inside.ranges, len(operators)))
            operators.append(_operator(event))
    pieces = list(_of_the_gpu(events, launches)) if is_on_gpu else host
    return Timeline(ranges, operators, pieces, is_on_gpu)


def _of_the_host(events: Sequence[Event]) -> list[Event]:
    """Ranges and operators of the thread that samples, and all launches; outer before inner."""
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


def _of_the_gpu(events: Sequence[Event], launches: dict[int | None, _Inside]) -> Iterator[Piece]:
    nowhere = _Inside(0, (), None)
    device = [event for event in events if event.get("cat") in ON_DEVICE]
    for event in sorted(device, key=lambda event: event["ts"]):
        inside = launches.get(_correlation(event), nowhere)
        end = event["ts"] + event["dur"]
        yield Piece(event["name"], event["ts"], end, inside.ranges, inside.operator)


def _correlation(event: Event) -> int | None:
    """What a launch and all that it launched have in common."""
    return event.get("args", {}).get("correlation")


def _operator(event: Event) -> Operator:
    args = event.get("args", {})
    return Operator(event["name"], args.get("Input Dims", ()), args.get("Input type", ()))
