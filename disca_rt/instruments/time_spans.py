"""Unions of spans of time: kernels of several streams overlap. Knows no clock."""

from collections.abc import Iterable

TimeSpan = tuple[float, float]
"""Start and end, in whatever unit."""


def union(spans: Iterable[TimeSpan]) -> list[TimeSpan]:
    """Disjoint spans, in order, that cover what `spans` cover."""
    joined: list[TimeSpan] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
