"""Says of every piece of a timeline which step it belongs to, its class and its work.

A step lasts, on a CPU, as long as its range; on a GPU from the last kernel of the step before to
its own last one. Knows no clock and no ceiling.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .classes import ATTENTION, COLLECTIVE, GEMM, classify
from .timeline import Operator, Piece, Timeline
from .work import Work, operator_work


class Window(NamedTuple):
    """One step, on the clock of what runs it."""

    index: int
    kind: str
    start_us: float
    end_us: float

    @property
    def time_us(self) -> float:
        return self.end_us - self.start_us


class Share(NamedTuple):
    """A piece of a step.

    `exposed_us` is what it adds to the time that something runs: of pieces that run at once one
    counts, a collective only where nothing else runs. `work` is that of the call it is part of, or
    none where another piece of the call has it.
    """

    piece: Piece
    step: int  # position among the windows
    kind: str
    class_name: str
    work: Work
    exposed_us: float


class Account(NamedTuple):
    """`shares` in the order in which they began."""

    windows: list[Window]
    shares: list[Share]


def account(timeline: Timeline, kinds: Sequence[str], works: Sequence[Work]) -> Account:
    """Everything that ran within a step.

    `kinds` of the steps; `works` of the ranges of level "op", both in order. ValueError where their
    numbers are not those of the timeline's.
    """
    step_ranges = [i for i, each in enumerate(timeline.ranges) if each.level == "step"]
    op_ranges = [i for i, each in enumerate(timeline.ranges) if each.level == "op"]
    for what, ranges, given in (("steps", step_ranges, kinds), ("ops", op_ranges, works)):
        if len(ranges) != len(given):
            raise ValueError(
                f"the trace has {len(ranges)} {what}, {len(given)} ran; profile fewer --steps"
            )
    step_of = {index: number for number, index in enumerate(step_ranges)}
    inside = [piece for piece in timeline.pieces if piece.ranges and piece.ranges[0] in step_of]
    numbers = [step_of[piece.ranges[0]] for piece in inside]
    windows = list(_windows(timeline, step_ranges, kinds, inside, numbers))
    classes = [_class(timeline, piece) for piece in inside]
    work_of = _works(timeline, inside, classes, dict(zip(op_ranges, works, strict=True)))
    exposed = exposed_times(inside, [windows[number] for number in numbers], classes)
    shares = [
        Share(piece, number, windows[number].kind, class_name, work, alone)
        for piece, number, class_name, work, alone in zip(
            inside, numbers, classes, work_of, exposed, strict=True
        )
    ]
    return Account(windows, shares)


def _windows(
    timeline: Timeline,
    step_ranges: Sequence[int],
    kinds: Sequence[str],
    pieces: Sequence[Piece],
    numbers: Sequence[int],
) -> Iterator[Window]:
    if not timeline.is_on_gpu:
        for number, index in enumerate(step_ranges):
            each = timeline.ranges[index]
            yield Window(number, kinds[number], each.start_us, each.end_us)
        return
    ends = [0.0] * len(step_ranges)
    for piece, number in zip(pieces, numbers, strict=True):
        ends[number] = max(ends[number], piece.end_us)
    start = min((piece.start_us for piece in pieces), default=0.0)
    for number, end in enumerate(ends):
        yield Window(number, kinds[number], start, max(start, end))
        start = max(start, end)


def _class(timeline: Timeline, piece: Piece) -> str:
    names = [f"{each.level} {each.name}" for each in (timeline.ranges[i] for i in piece.ranges)]
    operator = operator_of(timeline, piece)
    return classify(piece.name, operator.name if operator else "", names)


def operator_of(timeline: Timeline, piece: Piece) -> Operator | None:
    """What PyTorch was asked for."""
    return None if piece.operator is None else timeline.operators[piece.operator]


def _works(
    timeline: Timeline,
    pieces: Sequence[Piece],
    classes: Sequence[str],
    work_of_range: dict[int, Work],
) -> Iterator[Work]:
    """Of each call with its first piece: an operator's or, of what an op does itself, the range's.

    An op with a GEMM of its own leaves it its FLOPs.
    """
    with_gemm = {
        piece.ranges[-1]
        for piece, class_name in zip(pieces, classes, strict=True)
        if class_name == GEMM
    }
    taken: set[tuple[str, int]] = set()
    for piece, class_name in zip(pieces, classes, strict=True):
        operator, inner = operator_of(timeline, piece), piece.ranges[-1]
        is_op = inner in work_of_range and class_name != GEMM
        call = ("range", inner) if is_op else ("operator", piece.operator or 0)
        if call in taken or not (is_op or operator):
            yield Work()
            continue
        taken.add(call)
        if not is_op:
            yield operator_work(operator.name, operator.shapes, operator.dtypes)
        elif inner in with_gemm and class_name != ATTENTION:
            yield work_of_range[inner]._replace(flops=0)
        else:
            yield work_of_range[inner]


def exposed_times(
    pieces: Sequence[Piece], windows: Sequence[Window], classes: Sequence[str]
) -> list[float]:
    """What each piece adds to the time that something runs, within its window."""
    spans = [
        (max(piece.start_us, window.start_us), min(piece.end_us, window.end_us))
        for piece, window in zip(pieces, windows, strict=True)
    ]
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    computing = [i for i in order if classes[i] != COLLECTIVE]
    exposed, busy = [0.0] * len(spans), _merged([spans[i] for i in computing])
    _sweep(computing, spans, exposed, [])
    _sweep([i for i in order if classes[i] == COLLECTIVE], spans, exposed, busy)
    return exposed


Span = tuple[float, float]


def _sweep(
    order: Sequence[int], spans: Sequence[Span], exposed: list[float], busy: Sequence[Span]
) -> None:
    """Each span's time after those before it in `order`, outside the spans `busy`."""
    reached, ends = float("-inf"), [end for _, end in busy]
    for i in order:
        start, end = max(spans[i][0], reached), spans[i][1]
        if end > start:
            reached = end
            exposed[i] = end - start - _overlap((start, end), busy, ends)


def _overlap(span: Span, busy: Sequence[Span], ends: Sequence[float]) -> float:
    """How much of `span` lies in the disjoint spans `busy`, which end at `ends`."""
    total, i = 0.0, bisect_right(ends, span[0])
    while i < len(busy) and busy[i][0] < span[1]:
        total += min(span[1], busy[i][1]) - max(span[0], busy[i][0])
        i += 1
    return total


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The union of spans that are sorted by their start."""
    union: list[Span] = []
    for start, end in spans:
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union
