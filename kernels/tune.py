"""Measures what every op is launched with, candidate by candidate, and picks by the clock.

Knows candidates and winners; what is called comes from `workload`, the clock from the caller.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from math import prod
from typing import Any, NamedTuple

import torch
from triton.runtime.errors import OutOfResources

from .head import BLOCK_K, MIN_DOT
from .launch import Choice, LaunchConfig, next_power_of_2, trying
from .launch_table import ATTENTION
from .linear_gelu import VARIANTS
from .workload import SMALL, Call, Make, Shapes, calls, implementation

GEMMS = "joint_linear", "pair_linear", "fuse_cached"
ROWS = 1, 2, 4, 8, 16, 32, 64, 128
WARPS = 1, 2, 4, 8, 16
PER_THREAD = range(4, 33)  # elements of a tile: fewer wastes threads, more takes registers

Clock = Callable[[Callable[[], object]], float]
"""Seconds that a call takes."""


class Measured(NamedTuple):
    """One op at one shape: seconds by what it was launched with; None is the default."""

    op: str
    shapes: str
    width: int
    seconds: Mapping[Choice | None, float]


def variants() -> dict[str, tuple[str, ...]]:
    """By op that has launches to choose from: its variants, none where it has configurations."""
    tuned = [op for op in calls(SMALL, torch.empty) if op not in GEMMS]
    return {op: tuple(VARIANTS) if op == "linear_gelu" else () for op in tuned}


def candidates(op: str, width: int) -> list[Choice]:
    """What `op` may be launched with at `width`; nothing where it is the library's GEMMs alone."""
    if op in GEMMS:
        return []
    if op == "linear_gelu":
        return list(VARIANTS)
    columns = BLOCK_K if op == "head" else next_power_of_2(width)
    least = MIN_DOT if op == "head" else 1
    return [
        LaunchConfig(rows, warps)
        for rows in ROWS
        for warps in WARPS
        if rows >= least and rows * columns // (32 * warps) in PER_THREAD
    ]


def measure(shapes: Iterable[Shapes], make: Make, clock: Clock) -> Iterator[Measured]:
    """Every op at all `shapes`, one call's tensors alive at a time.

    GELU after a product is measured as it will be launched: with the best of its own candidates.
    """
    for each in shapes:
        gelu: Choice | None = None
        for op, make_call in calls(each, make).items():
            call = make_call()
            if not candidates(op, call.width):
                continue
            with trying("gelu_tanh", gelu) if op == "linear_gelu" else nullcontext():
                measured = Measured(op, each.name, call.width, dict(_timed(call, clock)))
            if op == "gelu_tanh":
                gelu = best([measured])
            yield measured


def _timed(call: Call, clock: Clock) -> Iterator[tuple[Choice | None, float]]:
    run = implementation(call.op)
    yield None, clock(lambda: run(*call.args))
    for choice in candidates(call.op, call.width):
        with trying(call.op, choice):
            try:
                yield choice, clock(lambda: run(*call.args))
            except OutOfResources:  # more shared memory or registers than this device has
                continue


def winners(measured: Iterable[Measured]) -> dict[str, dict[str, Any]]:
    """By op and width, as in the launch table: the choice with the least product of times.

    Of attention all choices in that order, for machines that lack the first.

    All shapes of one width share an entry, and each counts alike.
    """
    groups: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for each in measured:
        groups[each.op, each.width].append(each)
    table: dict[str, dict[str, Any]] = {}
    for (op, width), group in groups.items():
        if op == ATTENTION:
            entry: Any = ranked(group)
        else:
            choice = best(group)
            entry = list(choice) if isinstance(choice, LaunchConfig) else choice
        table.setdefault(op, {})[str(width)] = entry
    return table


def best(group: Iterable[Measured]) -> Choice:
    """Of one op and width: the choice that is fastest over all of the shapes."""
    return ranked(group)[0]


def ranked(group: Iterable[Measured]) -> list[Choice]:
    """The choices that all shapes share, by the product of their times."""
    times = [each.seconds for each in group]
    shared = [choice for choice in times[0] if choice and all(choice in other for other in times)]
    return sorted(shared, key=lambda choice: prod(seconds[choice] for seconds in times))
