"""Account of a timeline: the step, class and work of every kernel's or operator's run.

A step lasts, on a CPU, as long as its range; on a GPU from the last kernel of the step before to
its own last one. A stage, such as a decode, is accounted for as a step is, and on a GPU lasts at
least as long as its range. Knows no clock and no ceiling.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..instruments.time_spans import TimeSpan, union
from .classes import ATTENTION, COLLECTIVE, GEMM, classify
from .timeline import KernelRun, Operator, TraceTimeline
from .work import Work, operator_work


class Window(NamedTuple):
    """Time of one step or stage, on the clock of the device that runs it.

    `index` is the step's, None for a stage.
    """

    index: int | None
    kind: str
    start_us: float
    end_us: float

    @property
    def time_us(self) -> float:
        return self.end_us - self.start_us

    @property
    def name(self) -> str:
        """Name of it on the page."""
        return self.kind if self.index is None else f"step {self.index} {self.kind}"


class Entry(NamedTuple):
    """Run of a kernel or operator within a step, with its class, work and exposed time.

    `exposed_us` is what it adds to the time that something runs: of runs at once one counts, a
    collective only where nothing else runs. `work` is that of the call it is part of, or none
    where another run of the call has it.
    """

    run: KernelRun
    step: int  # position of its step or stage among the windows
    kind: str
    class_name: str
    work: Work
    exposed_us: float


class Account(NamedTuple):
    """Steps and stages of a sample and all that ran in them, in the order in which it began."""

    windows: list[Window]
    entries: list[Entry]


def account(timeline: TraceTimeline, kinds: Sequence[str], works: Sequence[Work]) -> Account:
    """Account of everything that ran within a step or a stage.

    `kinds` are those of the steps, `works` those of the ranges of level "op", both in order.
    ValueError where their numbers are not those of the timeline's.
    """
    step_ranges = [i for i, each in enumerate(timeline.ranges) if each.level == "step"]
    op_ranges = [i for i, each in enumerate(timeline.ranges) if each.level == "op"]
    for what, ranges, given in (("steps", step_ranges, kinds), ("ops", op_ranges, works)):
        if len(ranges) != len(given):
            raise ValueError(
                f"the trace has {len(ranges)} {what}, {len(given)} ran; profile fewer --steps"
            )
    spans = [i for i, each in enumerate(timeline.ranges) if each.level in ("stage", "step")]
    window_of = {index: number for number, index in enumerate(spans)}
    inside = [run for run in timeline.runs if run.ranges and run.ranges[0] in window_of]
    numbers = [window_of[run.ranges[0]] for run in inside]
    steps = enumerate(kinds)
    named = [
        next(steps) if timeline.ranges[i].level == "step" else (None, timeline.ranges[i].name)
        for i in spans
    ]
    windows = [
        Window(*name, *span)
        for name, span in zip(named, _spans(timeline, spans, inside, numbers), strict=True)
    ]
    classes = [_class(timeline, run) for run in inside]
    work_of = _works(timeline, inside, classes, dict(zip(op_ranges, works, strict=True)))
    exposed = exposed_times(inside, [windows[number] for number in numbers], classes)
    entries = [
        Entry(run, number, windows[number].kind, class_name, work, alone)
        for run, number, class_name, work, alone in zip(
            inside, numbers, classes, work_of, exposed, strict=True
        )
    ]
    return Account(windows, entries)


def _spans(
    timeline: TraceTimeline,
    ranges: Sequence[int],
    runs: Sequence[KernelRun],
    numbers: Sequence[int],
) -> Iterator[TimeSpan]:
    """Times of the `ranges`, on the clock of the device; `runs` are within those of `numbers`."""
    if not timeline.is_on_gpu:
        for index in ranges:
            yield timeline.ranges[index].start_us, timeline.ranges[index].end_us
        return
    ends = [0.0] * len(ranges)
    for run, number in zip(runs, numbers, strict=True):
        ends[number] = max(ends[number], run.end_us)
    stages = [each.start_us for each in timeline.ranges if each.level == "stage"]
    start = min([*(run.start_us for run in runs), *stages], default=0.0)
    for index, end in zip(ranges, ends, strict=True):
        each = timeline.ranges[index]
        if each.level == "stage":  # the host alone may work for long, as in loading
            start, end = max(start, each.start_us), max(end, each.end_us)
        yield start, max(start, end)
        start = max(start, end)


def _class(timeline: TraceTimeline, run: KernelRun) -> str:
    names = [f"{each.level} {each.name}" for each in (timeline.ranges[i] for i in run.ranges)]
    operator = operator_of(timeline, run)
    return classify(run.name, operator.name if operator else "", names)


def operator_of(timeline: TraceTimeline, run: KernelRun) -> Operator | None:
    """PyTorch's operator that `run` belongs to, or None."""
    return None if run.operator is None else timeline.operators[run.operator]


def _works(
    timeline: TraceTimeline,
    runs: Sequence[KernelRun],
    classes: Sequence[str],
    work_of_range: dict[int, Work],
) -> Iterator[Work]:
    """Work of each run: the whole of a call's with the call's first run, none with the others.

    A call is an operator or, for what an op does itself, the op's range. An op around a GEMM leaves
    the FLOPs to that.
    """
    with_gemm = {
        run.ranges[-1] for run, class_name in zip(runs, classes, strict=True) if class_name == GEMM
    }
    taken: set[tuple[str, int]] = set()
    for run, class_name in zip(runs, classes, strict=True):
        operator, inner = operator_of(timeline, run), run.ranges[-1]
        is_op = inner in work_of_range and class_name != GEMM
        call = ("range", inner) if is_op else ("operator", run.operator or 0)
        if call in taken or not (is_op or operator):
            yield Work()
            continue
        taken.add(call)
        if not is_op:
            yield operator_work(*operator)
        elif inner in with_gemm and class_name != ATTENTION:
            yield work_of_range[inner]._replace(flops=0)
        else:
            yield work_of_range[inner]


def exposed_times(
    runs: Sequence[KernelRun], windows: Sequence[Window], classes: Sequence[str]
) -> list[float]:
    """Time in µs that each run adds to the time that something runs, within its window."""
    spans = [
        (max(run.start_us, window.start_us), min(run.end_us, window.end_us))
        for run, window in zip(runs, windows, strict=True)
    ]
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    computing = [i for i in order if classes[i] != COLLECTIVE]
    exposed, busy = [0.0] * len(spans), union(spans[i] for i in computing)
    _sweep(computing, spans, exposed, [])
    _sweep([i for i in order if classes[i] == COLLECTIVE], spans, exposed, busy)
    return exposed


def _sweep(
    order: Sequence[int], spans: Sequence[TimeSpan], exposed: list[float], busy: Sequence[TimeSpan]
) -> None:
    """Sets the time that each span adds to those before it in `order`, outside the spans `busy`."""
    reached, ends = float("-inf"), [end for _, end in busy]
    for i in order:
        start, end = max(spans[i][0], reached), spans[i][1]
        if end > start:
            reached = end
            exposed[i] = end - start - _overlap((start, end), busy, ends)


def _overlap(span: TimeSpan, busy: Sequence[TimeSpan], ends: Sequence[float]) -> float:
    """Length of the part of `span` that lies in the disjoint spans `busy`, which end at `ends`."""
    total, i = 0.0, bisect_right(ends, span[0])
    while i < len(busy) and busy[i][0] < span[1]:
        total += min(span[1], busy[i][1]) - max(span[0], busy[i][0])
        i += 1
    return total
