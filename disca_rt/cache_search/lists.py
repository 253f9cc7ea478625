"""Step lists: the best one by errors of its gaps, and the lists next to one. Pure numbers."""

import math
from collections.abc import Iterator, Sequence

Drifts = Sequence[Sequence[float]]
"""`drifts[j][k]`: the error at step k of a sample whose last full step is j; k = steps: the end."""


def best_list(drifts: Drifts, full: int) -> tuple[int, ...]:
    """The list of `full` steps with the smallest sum of its gaps' errors, by dynamic programming.

    A gap from full step j to the next one k adds `drifts[j][k]`; the last one ends at the end of
    the sample. Ties go to the list that comes first.
    """
    steps = len(drifts)
    if not 1 <= full <= steps:
        raise ValueError(f"full steps must be from 1 to {steps}, got {full}")
    # least[j] is (error of what comes after full step j, the full steps from j on)
    least: list[tuple[float, tuple[int, ...]]] = [(drifts[j][steps], (j,)) for j in range(steps)]
    for more in range(2, full + 1):
        least = [
            min(
                (
                    (drifts[j][k] + least[k][0], (j, *least[k][1]))
                    for k in range(j + 1, steps)
                    if len(least[k][1]) == more - 1
                ),
                default=(math.inf, ()),
            )
            for j in range(steps)
        ]
    return least[0][1]


def neighbours(step_list: Sequence[int], steps: int) -> Iterator[tuple[int, ...]]:
    """Lists as long as `step_list` in which one full step is another one, near ones first."""
    taken = set(step_list)
    moves = [
        (abs(new - old), old, new)
        for old in step_list[1:]
        for new in range(1, steps)
        if new not in taken
    ]
    for _, old, new in sorted(moves):
        yield tuple(sorted({*step_list, new} - {old}))
