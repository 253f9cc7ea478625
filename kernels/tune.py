"""Measures every op with each launch that it may have, and picks the fastest by the clock.

Knows candidates and winners; what is called comes from `op_table`, the clock from the caller.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from triton.runtime.errors import OutOfResources

from .fused import implementation
from .launch import next_power_of_2, trying
from .launch_table import Choice, LaunchConfig
from .op_table import OP_ROWS, Call, calls
from .workload import Make, Shapes

ROWS = 1, 2, 4, 8, 16, 32, 64, 128
WARPS = 1, 2, 4, 8, 16
PER_THREAD = range(8, 33)  # elements of a tile: 16 bytes at least, at most what fits in registers

Clock = Callable[[Callable[[], object]], float]
"""Seconds that a call takes."""


class Timing(NamedTuple):
    """Seconds of one op at one shape by its launch; None is the default launch."""

    op: str
    shapes: str
    width: int
    seconds: Mapping[Choice | None, float]


def candidates(op: str, width: int) -> list[Choice]:
    """The launches of `op` to try at `width`; none where the library's GEMMs are all it is."""
    launches = OP_ROWS[op].launches
    if launches is None:
        return []
    if launches.variants:
        return list(launches.variants)
    columns = launches.columns or next_power_of_2(width)
    return [
        LaunchConfig(rows, warps, turns)
        for rows in ROWS
        for warps in WARPS
        for turns in launches.turns
        if rows >= launches.least_rows and rows * columns // (32 * warps) in PER_THREAD
    ]


def measure(shapes: Iterable[Shapes], make: Make, clock: Clock) -> Iterator[Timing]:
    """Every op at all `shapes`, one call's tensors alive at a time.

    What earlier measurements put into the launch table is not looked at. GELU after a product is
    measured as it will be launched: with the best of its own candidates.
    """
    for each in shapes:
        chosen: dict[str, Choice | None] = dict.fromkeys(OP_ROWS)
        for op, make_call in calls(each, make).items():
            call = make_call()
            if not candidates(op, call.width):
                continue
            measured = Timing(op, each.name, call.width, dict(_timed(call, chosen, clock)))
            if op == "gelu_tanh":
                chosen[op] = best([measured])
            yield measured


def _timed(
    call: Call, chosen: Mapping[str, Choice | None], clock: Clock
) -> Iterator[tuple[Choice | None, float]]:
    run = implementation(call.op)
    for choice in (None, *candidates(call.op, call.width)):
        with trying({**chosen, call.op: choice}):
            try:
                yield choice, clock(lambda: run(*call.args))
            except OutOfResources:  # more shared memory or registers than this device has
                continue


def winners(measured: Iterable[Timing]) -> dict[str, dict[str, Any]]:
    """The fastest choices by op and width, as in the launch table.

    All shapes of one width share an entry, and each counts alike: the product of times decides.
    """
    groups: dict[tuple[str, int], list[Timing]] = defaultdict(list)
    for each in measured:
        groups[each.op, each.width].append(each)
    table: dict[str, dict[str, Any]] = {}
    for (op, width), group in groups.items():
        table.setdefault(op, {})[str(width)] = best(group)
    return table


def best(group: Iterable[Timing]) -> Choice:
    """The choice with the least product of times over all shapes of one op and width."""
    return ranked(group)[0]


def ranked(group: Iterable[Timing]) -> list[Choice]:
    """The choices that all shapes share, by the product of their times."""
    times = [each.seconds for each in group]
    shared = [choice for choice in times[0] if choice and all(choice in other for other in times)]
    return sorted(shared, key=lambda choice: prod(seconds[choice] for seconds in times))
